/* In sbatch, salloc and srun, as the user: the two options, and a clear word on bad values. */
#define _GNU_SOURCE
#include "hydro.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REFUSE(...) (slurm_error("hydro: " __VA_ARGS__), -1)

struct hydro_choice hydro_choice;

static bool is_sbatch(void)
{
    return spank_context() == S_CTX_ALLOCATOR && strcmp(program_invocation_short_name, "salloc") != 0;
}

/* Makes `path` absolute; says what is wrong with it otherwise. */
static int take_study(const char *path)
{
    char *absolute = realpath(path, NULL), byte;
    int fd = -1;

    if (!is_sbatch())
        return REFUSE("--hydro-bubble=STUDY needs the batch job of sbatch to run beside; with %s give "
                      "--hydro-bubble and start the study by: srun --overlap hydro-trial %s",
                      program_invocation_short_name, path);
    if (!hydro_is_safe_path(path) || (absolute != NULL && !hydro_is_safe_path(absolute)))
        return REFUSE("--hydro-bubble=%s: a study's path may have letters, digits and _./+@,=:~- only, "
                      "at most %d; rename or move the file", path, HYDRO_PATH - 1);
    if (absolute == NULL || (fd = open(absolute, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) < 0 || read(fd, &byte, 1) < 0)
        return REFUSE("--hydro-bubble=%s: the study file cannot be read (%m); give the path of a Python file", path);
    close(fd);
    strcpy(hydro_choice.study, absolute);
    return 0;
}

/* Slurm may call it twice: for the environment, then for the command line. The last one counts. */
static int on_hydro_bubble(int value __attribute__((unused)), const char *argument, int remote)
{
    bool has_argument = argument != NULL && strcmp(argument, "(null)") != 0;
    const char *path = hydro_cut_bound(has_argument ? argument : "", hydro_choice.bound);

    hydro_choice.lends = true;
    hydro_choice.study[0] = '\0';
    if (remote && hydro_is_safe_path(path))
        strcpy(hydro_choice.study, path);
    if (has_argument && argument[0] == '\0' && !remote)
        return REFUSE("--hydro-bubble= has no study behind the equals sign; leave the sign out or name a file");
    return remote || path[0] == '\0' ? 0 : take_study(path);
}

static int on_bubbles(int value __attribute__((unused)), const char *argument, int remote)
{
    unsigned min, max;

    if (remote)
        return 0;
    if (!is_sbatch())
        return REFUSE("--bubbles is for sbatch only (the devices are found while the job waits); "
                      "submit a script that runs: srun hydro-trial STUDY");
    if (!hydro_parse_bubbles(argument, &min, &max))
        return REFUSE("--bubbles=%s is not a number of devices; write --bubbles=N or --bubbles=MIN-MAX "
                      "with 1 <= MIN <= MAX <= %d", argument ? argument : "", HYDRO_MAX_BUBBLES);
    return 0;
}

static struct spank_option options[] = {
    { "hydro-bubble", "STUDY", "[hydro] lend this job's pipeline bubbles to hyperparameter trials; with =STUDY (sbatch "
      "only) run that study in them; =bound=0.5%[,STUDY]: shut them if they slow it by more", 2, 0, on_hydro_bubble },
    { "bubbles", "N|MIN-MAX", "[hydro] sbatch only: run this study in the bubbles of N devices in all",
      1, 1, on_bubbles },
};

int hydro_client_init(spank_t spank)
{
    /* Slurm hands a job's options on to what runs in it; they are about that job, not about the next. */
    unsetenv("SLURM_SPANK__SLURM_SPANK_OPTION_hydro_hydro_bubble");
    unsetenv("SLURM_SPANK__SLURM_SPANK_OPTION_hydro_bubbles");
    unsetenv("SLURM_SPANK_HYDRO_BUBBLE");
    if (spank_context() == S_CTX_ALLOCATOR)
        unsetenv("SLURM_HYDRO_GUARD_BOUND");
    if (spank_option_register(spank, &options[0]) || spank_option_register(spank, &options[1]))
        slurm_error("hydro: Slurm did not take the options --hydro-bubble and --bubbles");
    return 0;
}

/* Tells prolog, epilog and job_submit; root trusts nothing of it but that it was given. */
int hydro_client_post_opt(spank_t spank)
{
    if (hydro_choice.lends && spank_context() == S_CTX_LOCAL && getenv("SLURM_JOB_ID") != NULL)
        slurm_spank_log("hydro: --hydro-bubble is ignored in a step; give it to what made the job");
    else if (hydro_choice.lends &&
             spank_job_control_setenv(spank, "HYDRO_BUBBLE", hydro_choice.study[0] ? hydro_choice.study : "1", 1))
        slurm_error("hydro: Slurm did not take the opt-in, so no bubble of this job will be lent");
    else if (hydro_choice.bound[0])
        setenv("SLURM_HYDRO_GUARD_BOUND", hydro_choice.bound, 1); /* SLURM_: passes any --export */
    return 0;
}
