/* In slurmstepd. Root's part asks hydro-lanes for lanes, inside the step's device cgroup; the user's
 * part pins the task to its device's core and starts the study of --hydro-bubble=STUDY. */
#define _GNU_SOURCE
#include "hydro.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct hydro_config config;
static bool is_configured;
static struct hydro_answer granted; /* from the privileged to the unprivileged part of one task */
static enum hydro_role role;

int hydro_step_init(spank_t spank, int argc, char *argv[])
{
    hydro_client_init(spank);
    is_configured = hydro_config_read(&config, argc, argv);
    return 0;
}

static bool read_task(spank_t spank, struct hydro_task *task)
{
    uid_t uid;
    uint32_t job_id, step_id;

    if (spank_get_item(spank, S_JOB_ID, &job_id) || spank_get_item(spank, S_JOB_STEPID, &step_id) ||
        spank_get_item(spank, S_JOB_UID, &uid))
        return false;
    *task = (struct hydro_task){ .job_id = job_id, .step_id = step_id, .uid = uid, .pid = getpid() };
    return true;
}

static bool runs_trial(spank_t spank)
{
    char **argv = NULL;
    int argc = 0;

    return spank_get_item(spank, S_JOB_ARGV, &argc, &argv) == ESPANK_SUCCESS && hydro_is_trial(argc, argv);
}

static void ask(spank_t spank, const char *verb, const struct hydro_task *task)
{
    if (!hydro_lanes_run(&config, verb, task, &granted) || granted.reason[0])
        slurm_spank_log("%s", granted.reason[0] ? granted.reason : "hydro: hydro-lanes gave no answer");
    spank_setenv(spank, "HYDRO_PAGE_DIR", config.page_dir, 1);
    spank_setenv(spank, "HYDRO_LANES", granted.lanes, 1);
    spank_setenv(spank, "HYDRO_ROLE", verb, 1);
}

/* As root, in the forked task, before the user's identity is taken. */
int hydro_step_privileged(spank_t spank)
{
    static const char *const names[] = { "HYDRO_PAGE_DIR", "HYDRO_LANES", "HYDRO_ROLE", "HYDRO_BUBBLE" };
    struct hydro_task task;

    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        spank_unsetenv(spank, names[i]); /* what another job's shell left behind */
    if (!is_configured || !read_task(spank, &task))
        return 0;
    role = hydro_role_of(&config, task.job_id);
    if (role == HYDRO_LENDER) {
        spank_setenv(spank, "HYDRO_BUBBLE", hydro_client_study()[0] ? hydro_client_study() : "1", 1);
        ask(spank, "lend", &task);
    }
    if (role != HYDRO_NOT_OURS && runs_trial(spank))
        ask(spank, "take", &task);
    return 0;
}

/* One core for each task if the numbers fit, else all granted cores for every task. */
static void pin_to_cores(spank_t spank)
{
    uint32_t num_tasks = 0;
    int local_id = 0;
    cpu_set_t set;

    if (granted.num_cores == 0 || spank_get_item(spank, S_JOB_LOCAL_TASK_COUNT, &num_tasks) ||
        spank_get_item(spank, S_TASK_ID, &local_id))
        return;
    CPU_ZERO(&set);
    for (size_t i = 0; i < granted.num_cores; ++i)
        if (num_tasks != granted.num_cores || (size_t)local_id == i)
            CPU_SET((size_t)granted.cores[i], &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        slurm_spank_log("hydro: this task could not be pinned to its device's core: %m");
}

/* As the user, after Slurm has set the task's affinity and just before exec. */
int hydro_step_task(spank_t spank)
{
    struct hydro_task task;

    int indexes[HYDRO_MAX_LANES];
    size_t num_lanes;

    if (!hydro_parse_numbers(granted.lanes, indexes, &num_lanes) || num_lanes == 0 || !read_task(spank, &task))
        return 0;
    pin_to_cores(spank);
    if (role == HYDRO_LENDER && task.step_id == SLURM_BATCH_SCRIPT && hydro_client_study()[0])
        hydro_gang_start(spank, task.job_id, num_lanes, hydro_client_study());
    return 0;
}

/* As root, in slurmstepd, when the step's tasks have ended. */
int hydro_step_exit(spank_t spank)
{
    struct hydro_answer answer;
    struct hydro_task task;

    if (is_configured && read_task(spank, &task) && hydro_role_of(&config, task.job_id) != HYDRO_NOT_OURS)
        hydro_lanes_run(&config, "leave", &task, &answer);
    return 0;
}
