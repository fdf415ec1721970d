/* In slurmstepd. Root's part asks hydro-lanes for lanes, inside the step's device cgroup; the user's
 * part pins the task to its devices' cores and starts the study of --hydro-bubble=STUDY. */
#define _GNU_SOURCE
#include "hydro.h"

#include <sched.h>

static struct hydro_config config;
static bool is_configured;
static struct hydro_task task; /* this and the rest: from the privileged to the user's part of a task */
static struct hydro_answer granted;
static enum hydro_role role;

int hydro_step_init(spank_t spank, int argc, char *argv[])
{
    hydro_client_init(spank); /* Slurm wants the options in the step, too */
    is_configured = hydro_config_read(&config, argc, argv);
    return 0;
}

static enum hydro_role read_role(spank_t spank)
{
    if (!is_configured || spank_get_item(spank, S_JOB_ID, &task.job_id) ||
        spank_get_item(spank, S_JOB_STEPID, &task.step_id) || spank_get_item(spank, S_JOB_UID, &task.uid))
        return HYDRO_NOT_OURS;
    return hydro_role_of(&config, task.job_id);
}

static void ask(spank_t spank, const char *verb)
{
    int local_id = 0;

    hydro_lanes_ask(&config, verb, &task, &granted);
    spank_get_item(spank, S_TASK_ID, &local_id);
    if (granted.reason[0] && local_id == 0)
        slurm_spank_log("%s", granted.reason);
    spank_setenv(spank, "HYDRO_PAGE_DIR", config.page_dir, 1);
    spank_setenv(spank, "HYDRO_LANES", granted.lanes, 1);
    spank_setenv(spank, "HYDRO_ROLE", verb, 1);
}

/* As root, in the forked task, before the user's identity is taken. */
int hydro_step_privileged(spank_t spank)
{
    static const char *const names[] = { "HYDRO_PAGE_DIR", "HYDRO_LANES", "HYDRO_ROLE", "HYDRO_BUBBLE" };
    char **argv = NULL;
    int argc = 0;

    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        spank_unsetenv(spank, names[i]); /* what another job's shell left behind */
    role = read_role(spank);
    if (role == HYDRO_LENDER) {
        spank_setenv(spank, "HYDRO_BUBBLE", hydro_choice.study[0] ? hydro_choice.study : "1", 1);
        ask(spank, "lend");
    } else if (hydro_choice.lends && task.step_id == SLURM_BATCH_SCRIPT) {
        slurm_spank_log("hydro: no bubble is lent on this node: its prolog did not note this job; tell your admin");
    }
    if (role != HYDRO_NOT_OURS && spank_get_item(spank, S_JOB_ARGV, &argc, &argv) == ESPANK_SUCCESS &&
        hydro_is_trial(argc, argv))
        ask(spank, "take");
    return 0;
}

/* As the user, after Slurm has set the task's affinity and just before exec. */
int hydro_step_task(spank_t spank)
{
    char **environment = NULL;
    cpu_set_t set;

    CPU_ZERO(&set);
    for (size_t i = 0; i < granted.num_cores; ++i)
        CPU_SET(granted.cores[i], &set);
    if (granted.num_cores > 0 && sched_setaffinity(0, sizeof set, &set) < 0)
        slurm_spank_log("hydro: this task could not be pinned to its devices' cores: %m");
    if (role == HYDRO_LENDER && task.step_id == SLURM_BATCH_SCRIPT && hydro_choice.study[0] &&
        spank_get_item(spank, S_JOB_ENV, &environment) == ESPANK_SUCCESS)
        hydro_study_start(&config, hydro_choice.study, environment);
    return 0;
}

/* As root, in slurmstepd, when the step's tasks have ended. */
int hydro_step_exit(spank_t spank)
{
    if (read_role(spank) != HYDRO_NOT_OURS)
        hydro_lanes_ask(&config, "leave", &task, &granted);
    return 0;
}
