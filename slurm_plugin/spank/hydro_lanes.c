/* Runs hydro-lanes.pyz as root: clean environment, no inherited files, a time limit, a strict answer. */
#define _GNU_SOURCE
#include "hydro.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TIME_LIMIT_MS = 5000, ANSWER_BYTES = 4096, NUMBER = 16 };

/* After fork in a program with threads: only calls that are safe there. */
static void exec_lanes(char *const argv[], int out)
{
    static char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL };
    int null = open("/dev/null", O_RDWR);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < NSIG; ++number)
        signal(number, SIG_DFL);
    setpgid(0, 0);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 || chdir("/") < 0)
        _exit(126);
    if (syscall(SYS_close_range, 3, ~0U, 0) < 0)
        for (int fd = 3; fd < 65536; ++fd)
            close(fd);
    execve(argv[0], argv, environment);
    _exit(127);
}

static int milliseconds_left(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return TIME_LIMIT_MS - (int)((now.tv_sec - start->tv_sec) * 1000 +
                                 (now.tv_nsec - start->tv_nsec) / 1000000);
}

/* Reads all that the child prints; false when its time is up. */
static bool read_answer(int fd, char text[ANSWER_BYTES])
{
    struct pollfd wait_for = { .fd = fd, .events = POLLIN };
    struct timespec start;
    size_t length = 0;

    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        char chunk[512];
        int left = milliseconds_left(&start);
        ssize_t got;

        if (left <= 0 || poll(&wait_for, 1, left) == 0)
            return false;
        got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        if (length + (size_t)got < ANSWER_BYTES) {
            memcpy(text + length, chunk, (size_t)got);
            length += (size_t)got;
        }
    }
    text[length] = '\0';
    return true;
}

/* HYDRO_LANES= and CORES= by their grammar; any other line is the reason for the user. */
static bool parse_answer(char *text, struct hydro_answer *answer)
{
    int indexes[HYDRO_MAX_LANES];
    size_t count;
    bool found = false;

    for (char *rest = NULL, *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "HYDRO_LANES=", 12) == 0) {
            if (!hydro_parse_numbers(line + 12, indexes, &count) || strlen(line + 12) >= HYDRO_TEXT)
                return false;
            strcpy(answer->lanes, line + 12);
            found = true;
        } else if (strncmp(line, "CORES=", 6) == 0) {
            if (!hydro_parse_numbers(line + 6, answer->cores, &answer->num_cores))
                return false;
        } else {
            snprintf(answer->reason, sizeof answer->reason, "%s", line);
        }
    }
    return found;
}

/* Says whether the program answered; if not, `answer->reason` says why and no lane is granted. */
bool hydro_lanes_run(const struct hydro_config *config, const char *verb,
                     const struct hydro_task *task, struct hydro_answer *answer)
{
    char job[NUMBER], step[NUMBER], uid[NUMBER], pid[NUMBER], text[ANSWER_BYTES];
    char *argv[] = { (char *)config->python, "-I", (char *)config->program, "--config",
                     (char *)config->path, (char *)verb, "--job", job, "--step", step,
                     "--uid", uid, "--pid", pid, NULL };
    int out[2];
    pid_t child;
    bool in_time;

    snprintf(job, sizeof job, "%u", task->job_id);
    snprintf(step, sizeof step, "%u", task->step_id);
    snprintf(uid, sizeof uid, "%u", task->uid);
    snprintf(pid, sizeof pid, "%d", (int)task->pid);
    *answer = (struct hydro_answer){ .reason = "hydro: could not start hydro-lanes; see hydro doctor" };
    if (pipe2(out, O_CLOEXEC) < 0)
        return false;
    if ((child = fork()) == 0)
        exec_lanes(argv, out[1]);
    close(out[1]);
    in_time = child > 0 && read_answer(out[0], text);
    close(out[0]);
    if (child <= 0)
        return false;
    if (!in_time)
        kill(-child, SIGKILL), kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    *answer = (struct hydro_answer){ .reason = "hydro: hydro-lanes took more than 5 s, so no device is shared" };
    if (!in_time)
        return false;
    answer->reason[0] = '\0';
    if (parse_answer(text, answer))
        return true;
    answer->lanes[0] = '\0', answer->num_cores = 0;
    return false;
}
