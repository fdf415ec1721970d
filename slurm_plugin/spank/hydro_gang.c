/* The study beside a batch job: `srun … hydro-trial STUDY` on all its nodes, started as the user from
 * the batch step's task, so that Slurm ends it with the batch script. hydro-trial waits for the primary. */
#define _GNU_SOURCE
#include "hydro.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The second fork leaves the study without a parent that would have to wait for it. */
static void exec_srun(char *const argv[], char **environment, int log)
{
    int null = open("/dev/null", O_RDONLY);
    sigset_t none;

    if (fork() != 0)
        _exit(0);
    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; ++number)
        signal(number, SIG_DFL);
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(126);
    syscall(SYS_close_range, 3, ~0U, 0);
    environ = environment;
    execvp(argv[0], argv);
    dprintf(2, "hydro: srun could not be started: %m; put it on the PATH of the job\n");
    _exit(127);
}

/* `study` is relative to the directory of submission, or absolute. */
void hydro_gang_start(spank_t spank, unsigned job_id, size_t num_lanes, const char *study)
{
    char directory[HYDRO_PATH_MAX] = ".", nodes[16] = "1", path[2 * HYDRO_PATH_MAX], log_path[2 * HYDRO_PATH_MAX];
    char nodes_option[32], tasks_option[48];
    char *argv[] = { "srun", "--overlap", "--mpi=pmix", nodes_option, tasks_option, "--cpu-bind=none",
                     "--mem=0", "--kill-on-bad-exit=0", "--job-name=hydro-trial", "hydro-trial", path, NULL };
    char **environment = NULL;
    pid_t child;
    int log;

    spank_getenv(spank, "SLURM_SUBMIT_DIR", directory, sizeof directory);
    spank_getenv(spank, "SLURM_JOB_NUM_NODES", nodes, sizeof nodes);
    if (study[0] == '/')
        snprintf(path, sizeof path, "%s", study);
    else
        snprintf(path, sizeof path, "%s/%s", directory, study);
    snprintf(log_path, sizeof log_path, "%s/hydro-trial-%u.log", directory, job_id);
    snprintf(nodes_option, sizeof nodes_option, "--nodes=%s", nodes);
    snprintf(tasks_option, sizeof tasks_option, "--ntasks-per-node=%zu", num_lanes);
    log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log < 0) {
        slurm_spank_log("hydro: %s cannot be written (%m), so the study is not started; "
                        "submit from a directory that you can write", log_path);
        return;
    }
    if (spank_get_item(spank, S_JOB_ENV, &environment) == ESPANK_SUCCESS) {
        if ((child = fork()) == 0)
            exec_srun(argv, environment, log);
        if (child > 0)
            waitpid(child, NULL, 0);
    }
    close(log);
}
