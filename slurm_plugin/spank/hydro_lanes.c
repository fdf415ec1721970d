/* Runs hydro-lanes.pyz: as root with a clean environment, a time limit and a strict answer; as the user to
 * start the study beside a batch job. */
#define _GNU_SOURCE
#include "hydro.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* After fork in a program with threads: only calls that are safe there. */
static void exec_program(char *const argv[], char *const environment[], unsigned first_fd)
{
    for (int number = 1; number < NSIG; ++number)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &(sigset_t){ 0 }, NULL); /* blocks none */
    if (syscall(SYS_close_range, first_fd, ~0U, 0) < 0)
        for (unsigned fd = first_fd; fd < 65536; ++fd)
            close((int)fd);
    execve(argv[0], argv, environment);
    _exit(127);
}

static void exec_lanes(char *const argv[], int out)
{
    static char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL };
    int null = open("/dev/null", O_RDWR);

    alarm(5); /* seconds; survives exec, and kills what does not answer in time */
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 || chdir("/") < 0)
        _exit(126);
    exec_program(argv, environment, 3);
}

/* HYDRO_LANES= and CORES= by their grammar; any other line is the reason for the user. */
static bool take_line(struct hydro_answer *answer, char *line)
{
    unsigned indexes[HYDRO_MAX_LANES];

    line[strcspn(line, "\n")] = '\0';
    if (strncmp(line, "CORES=", 6) == 0)
        return hydro_parse_numbers(line + 6, answer->cores, &answer->num_cores);
    if (strncmp(line, "HYDRO_LANES=", 12) == 0)
        return snprintf(answer->lanes, HYDRO_TEXT, "%s", line + 12) < HYDRO_TEXT &&
               hydro_parse_numbers(answer->lanes, indexes, &answer->num_lanes);
    snprintf(answer->reason, HYDRO_TEXT, "%.*s", HYDRO_TEXT - 1, line);
    return true;
}

/* No lanes in `answer` if anything goes wrong; its reason then says what. */
void hydro_lanes_ask(const struct hydro_config *config, const char *verb,
                     const struct hydro_task *task, struct hydro_answer *answer)
{
    char job[16], step[16], uid[16], pid[16], line[HYDRO_TEXT];
    char *argv[] = { (char *)config->python, "-I", (char *)config->program, "--config", (char *)config->path,
                     (char *)verb, "--job", job, "--step", step, "--uid", uid, "--pid", pid, NULL };
    int out[2], status = 0;
    bool is_clean = true;
    pid_t child;
    FILE *file;

    *answer = (struct hydro_answer){ .reason = "" };
    snprintf(job, sizeof job, "%u", task->job_id);
    snprintf(step, sizeof step, "%u", task->step_id);
    snprintf(uid, sizeof uid, "%u", task->uid);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    if (pipe2(out, O_CLOEXEC) == 0 && (child = fork()) >= 0) {
        if (child == 0)
            exec_lanes(argv, out[1]);
        close(out[1]);
        for (file = fdopen(out[0], "r"); file && fgets(line, sizeof line, file);)
            is_clean = take_line(answer, line) && is_clean;
        if (file)
            fclose(file);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
        if (is_clean && status == 0)
            return;
    }
    *answer = (struct hydro_answer){ .reason = "" };
    snprintf(answer->reason, HYDRO_TEXT, "hydro: %.200s gave no answer (status %d), so no device is shared; "
             "tell your admin", config->program, status);
}

/* As the user: it detaches itself at once, and Slurm ends it with the batch step that it starts in. */
void hydro_study_start(const struct hydro_config *config, const char *study, char *const environment[])
{
    char *argv[] = { (char *)config->python, "-I", (char *)config->program, "start-study", (char *)study, NULL };
    pid_t child = fork();

    if (child == 0)
        exec_program(argv, environment, 3);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
}
