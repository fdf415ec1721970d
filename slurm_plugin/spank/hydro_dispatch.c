/* Slurm's entry points: each only says which file handles it in which context. */
#include "hydro.h"

SPANK_PLUGIN(hydro, 1)

#define ENTRY(name) int name(spank_t spank, int argc __attribute__((unused)), char **argv __attribute__((unused)))
#define IS_STEP (spank_context() == S_CTX_REMOTE)
#define IS_CLIENT (spank_context() == S_CTX_LOCAL || spank_context() == S_CTX_ALLOCATOR)

ENTRY(slurm_spank_init)
{
    return IS_STEP ? hydro_step_init(spank, argc, argv) : IS_CLIENT ? hydro_client_init(spank) : 0;
}
ENTRY(slurm_spank_init_post_opt) { return IS_CLIENT ? hydro_client_post_opt(spank) : 0; }
ENTRY(slurm_spank_task_init_privileged) { return IS_STEP ? hydro_step_privileged(spank) : 0; }
ENTRY(slurm_spank_task_init) { return IS_STEP ? hydro_step_task(spank) : 0; }
ENTRY(slurm_spank_exit) { return IS_STEP ? hydro_step_exit(spank) : 0; }
