-- A sample: copy these lines into the site's own /etc/slurm/job_submit.lua, or use it as it is.
package.path = "/etc/slurm/hydro/?.lua;" .. package.path
local hydro = require("hydro")
hydro.settings.tenant_partition = "bubble"

function slurm_job_submit(job, partitions, user_id) return hydro.submit(job, partitions, user_id) end

function slurm_job_modify(job, record, partitions, user_id)
    return hydro.modify(job, record, partitions, user_id)
end

return slurm.SUCCESS
