-- Hydro's part of a site's job_submit.lua: two functions that it calls, hydro.submit and hydro.modify.
--
-- Jobs with --hydro-bubble are marked as lenders, jobs with --bubbles are put into the tenant partition
-- and held for the coordinator; all others pass unchanged, also when something in here goes wrong. The
-- marks stand in admin_comment, which only this file and admins can write. Lua 5.1 to 5.4.

local hydro = {}

hydro.settings = {
    tenant_partition = "bubble", -- as in lanes.conf
    max_bubbles = 0,             -- refuse more devices than this at once; 0: the coordinator says so later
    slurm_user_id = nil,         -- nil: whoever runs slurmctld
}

local OPTION = "^_SLURM_SPANK_OPTION_hydro_([%w_]+)=(.*)$"
local GRES_FIELDS = { "gres", "tres_per_node", "tres_per_job", "tres_per_socket", "tres_per_task" }
local LOCKED_FIELDS = { -- of a gang: field, the words for it
    { "priority", "release it or change its priority" }, { "gres", "change its devices" },
    { "tres_per_node", "change its devices" }, { "tres_per_job", "change its devices" },
    { "tres_per_socket", "change its devices" }, { "tres_per_task", "change its devices" },
    { "req_nodes", "choose its nodes" }, { "exc_nodes", "choose its nodes" },
    { "min_nodes", "change its number of nodes" }, { "max_nodes", "change its number of nodes" },
    { "num_tasks", "change its number of tasks" }, { "features", "choose its nodes" },
    { "partition", "move it to another partition" }, { "admin_comment", "change its mark" },
}
local UNSET = { -- what Slurm's "not given" numbers look like in Lua, by size
    [0xfffe] = true, [0xfffffffe] = true, [0xfffffffffffffffe] = true, [-2] = true,
    [1.8446744073709552e19] = true,
}

local function refuse(message)
    slurm.log_user("hydro: %s", message) -- it formats
    return slurm.ERROR
end

-- To scontrol, where 22.05 shows no message of ours: the reason is in slurmctld's log.
local function deny(record, message)
    slurm.log_info("hydro: update of job %s refused: %s", tostring(record.job_id), message)
    return slurm.ESLURM_ACCESS_DENIED
end

local function is_given(value)
    return value ~= nil and value ~= "" and not UNSET[value]
end

-- Returns {hydro_bubble=…, bubbles=…, study=…} of what was given to sbatch, salloc or srun.
local function read_options(job)
    local options = {}
    for i = 0, (job.spank_job_env_size or 0) - 1 do
        local entry = job.spank_job_env[i] or ""
        local name, value = entry:match(OPTION)
        if name then options[name] = value end
        local study = entry:match("^HYDRO_BUBBLE=(/.*)$") or entry:match("^SPANK_HYDRO_BUBBLE=(/.*)$")
        if study then options.study = study end
    end
    return options
end

-- Calls visit(name, rest) for each GRES that a job asks for: "gpu:2", "gres:gpu:2" and "gres/gpu:2" alike.
local function each_gres(job, visit)
    for _, field in ipairs(GRES_FIELDS) do
        local text = job[field]
        for item in (type(text) == "string" and text or ""):gmatch("[^,]+") do
            item = item:gsub("^gres[:/]", "")
            visit(item:match("^[^:=]+"), item)
        end
    end
end

local function asks_for(job, wanted)
    local found
    each_gres(job, function(name, item) if name == wanted then found = item end end)
    return found
end

local function any_gres(job)
    local found
    each_gres(job, function(_, item) found = item end)
    return found
end

local function names_partition(list, wanted)
    for name in (list or ""):gmatch("[^,]+") do
        if name == wanted then return true end
    end
    return false
end

-- Returns MIN, MAX of "4" or "2-4", or nothing.
local function parse_range(text)
    local low, high = text:match("^(%d+)$"), nil
    if not low then low, high = text:match("^(%d+)-(%d+)$") end
    if not low or #low > 6 or (high and #high > 6) then return end
    low, high = tonumber(low), tonumber(high or low)
    if low >= 1 and low <= high then return low, high end
end

-- "bound=0.5%", alone or with ",STUDY" behind it: the slowdown over which the job's guard shuts bubbles.
local function is_bound(text)
    local digits, rest = text:match("^bound=([%d.]+)%%(.*)$")
    local share = digits and #digits <= 10 and not digits:match("%..*%.") and tonumber(digits)
    return share and share > 0 and share < 100 and (rest == "" or rest:match("^,.") ~= nil)
end

local function submit_lender(job, options)
    if options.hydro_bubble:match("^bound=") and not is_bound(options.hydro_bubble) then
        return refuse(("--hydro-bubble=%s names no slowdown; write --hydro-bubble=bound=0.5%%, or any other "
            .. "percentage below 100%%, and ,STUDY behind it for a study"):format(options.hydro_bubble))
    end
    if not asks_for(job, "gpu") then
        return refuse("--hydro-bubble lends the bubbles of GPUs, and this job asks for none; "
            .. "add --gres=gpu:N or --gpus=N, or leave --hydro-bubble out")
    end
    local study = options.study or ""
    if study ~= "" and not study:match("^/[%w_./+@,=:~-]+$") then
        return refuse("the path of the study has characters other than letters, digits and _./+@,=:~-; rename it")
    end
    job.admin_comment = study == "" and "hydro:lend" or "hydro:lend;study=" .. study
    return slurm.SUCCESS
end

local function submit_gang(job, options)
    local low, high = parse_range(options.bubbles)
    local limit = hydro.settings.max_bubbles
    if not low then
        return refuse("--bubbles=" .. options.bubbles .. " is not a number of devices; write --bubbles=N or "
            .. "--bubbles=MIN-MAX")
    end
    if limit > 0 and low > limit then
        return refuse(("--bubbles=%s asks for more devices than this cluster lends (%d); ask for fewer")
            :format(options.bubbles, limit))
    end
    local gres = any_gres(job)
    if gres then
        return refuse(("--bubbles finds the devices itself, so %s cannot be asked for in the same job; "
            .. "leave --gres and --gpus out"):format(gres))
    end
    if is_given(job.array_inx) then
        return refuse("--bubbles finds devices for one study, so a job array cannot be taken; leave --array out "
            .. "and let the study's trials be the array")
    end
    if job.priority == 0 then
        return refuse("a job with --bubbles is held and released by the coordinator, so --hold would be lost; leave "
            .. "it out, and submit the job when it may start")
    end
    job.partition = hydro.settings.tenant_partition
    job.admin_comment = ("hydro:want=%d-%d"):format(low, high)
    job.priority = 0 -- held, until the coordinator has found a place
    job.requeue = 1
    return slurm.SUCCESS
end

local function submit(job, options)
    if options.hydro_bubble and options.bubbles then
        return refuse("--hydro-bubble lends this job's bubbles and --bubbles asks for those of others; "
            .. "a job can do one of them, so submit two jobs")
    end
    local bubble = asks_for(job, "bubble")
    if bubble then
        return refuse(("%s cannot be asked for by hand, since only some devices have bubbles now; "
            .. "use sbatch --bubbles=N"):format(bubble))
    end
    if options.bubbles then return submit_gang(job, options) end
    if names_partition(job.partition, hydro.settings.tenant_partition) then
        return refuse(("partition %s is for studies that run in bubbles; use sbatch --bubbles=N, or another "
            .. "partition"):format(hydro.settings.tenant_partition))
    end
    if options.hydro_bubble then return submit_lender(job, options) end
    return slurm.SUCCESS
end

-- slurmctld runs as SlurmUser, and this file in slurmctld.
local function slurm_user_id()
    if hydro.settings.slurm_user_id == nil then
        local file = assert(io.open("/proc/self/status"))
        hydro.settings.slurm_user_id = tonumber(file:read("*a"):match("\nUid:%s+(%d+)"))
        file:close()
    end
    return hydro.settings.slurm_user_id
end

local function is_gang(record)
    return (record.admin_comment or ""):match("^hydro:want=") ~= nil
end

local function modify(job, record, user_id)
    if user_id == 0 or user_id == slurm_user_id() then return slurm.SUCCESS end
    local bubble = asks_for(job, "bubble")
    if is_gang(record) then
        for _, locked in ipairs(LOCKED_FIELDS) do
            if is_given(job[locked[1]]) then
                return deny(record, ("the coordinator places this job in bubbles, so you cannot %s; "
                    .. "cancel it and submit it anew with another --bubbles=N"):format(locked[2]))
            end
        end
    elseif bubble then
        return deny(record, ("%s cannot be asked for by hand, since only some devices have bubbles now; "
            .. "use sbatch --bubbles=N"):format(bubble))
    elseif names_partition(job.partition, hydro.settings.tenant_partition) then
        return deny(record, ("partition %s is for studies that run in bubbles; use sbatch --bubbles=N")
            :format(hydro.settings.tenant_partition))
    end
    return slurm.SUCCESS
end

-- An error in here must cost nobody but the jobs that need it.
local function guarded(is_ours, decide)
    local ok, result = pcall(decide)
    if ok then return result end
    slurm.log_error("hydro: %s", tostring(result))
    local known, ours = pcall(is_ours)
    if not (known and ours) then return slurm.SUCCESS end
    return refuse("the job-submit plugin failed, so this job cannot be taken; tell your admin: " .. tostring(result))
end

function hydro.submit(job, _partitions, _user_id)
    return guarded(function() return next(read_options(job)) ~= nil end,
        function() return submit(job, read_options(job)) end)
end

function hydro.modify(job, record, _partitions, user_id)
    return guarded(function() return is_gang(record) end, function() return modify(job, record, user_id) end)
end

return hydro
