/* Slurm's entry points: each only says which file handles it in which context. */
#include "hydro.h"

SPANK_PLUGIN(hydro, 1)

static bool is_client(void)
{
    return spank_context() == S_CTX_LOCAL || spank_context() == S_CTX_ALLOCATOR;
}

static bool is_step(void)
{
    return spank_context() == S_CTX_REMOTE;
}

int slurm_spank_init(spank_t spank, int argc, char *argv[])
{
    if (is_client())
        return hydro_client_init(spank);
    return is_step() ? hydro_step_init(spank, argc, argv) : 0;
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    return is_client() ? hydro_client_post_opt(spank) : 0;
}

int slurm_spank_task_init_privileged(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    return is_step() ? hydro_step_privileged(spank) : 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    return is_step() ? hydro_step_task(spank) : 0;
}

int slurm_spank_exit(spank_t spank, int argc, char *argv[])
{
    (void)argc, (void)argv;
    return is_step() ? hydro_step_exit(spank) : 0;
}
