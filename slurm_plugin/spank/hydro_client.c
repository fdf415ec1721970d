/* In sbatch, salloc and srun, as the user: the two options, and a clear word on bad values. */
#define _GNU_SOURCE
#include "hydro.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REFUSE(...) (slurm_error("hydro: " __VA_ARGS__), -1)
#define REFUSE_BOTH REFUSE("--hydro-bubble lends this job's bubbles and --bubbles asks for those of others; " \
                           "a job can do one of them, so submit two jobs")

static bool bubble_given, bubbles_given;
static char study[HYDRO_PATH]; /* absolute; in a step as the user typed it; empty: none */

static bool is_sbatch(void)
{
    return spank_context() == S_CTX_ALLOCATOR && strcmp(program_invocation_short_name, "salloc") != 0;
}

/* Makes `path` absolute in `study`; says what is wrong with it otherwise. */
static int take_study(const char *path)
{
    char directory[HYDRO_PATH] = "";

    if (!is_sbatch())
        return REFUSE("--hydro-bubble=STUDY needs the batch job of sbatch to run beside; with %s give "
                      "--hydro-bubble and start the study by: srun --overlap hydro-trial %s",
                      program_invocation_short_name, path);
    if (path[0] != '/' && getcwd(directory, sizeof directory) == NULL)
        return REFUSE("--hydro-bubble=%s: the current directory cannot be read (%m); give an absolute path", path);
    if (snprintf(study, sizeof study, "%s%s%s", directory, directory[0] ? "/" : "",
                 strncmp(path, "./", 2) ? path : path + 2) >= HYDRO_PATH || !hydro_is_safe_path(study))
        return REFUSE("--hydro-bubble=%s: a study's path may have letters, digits and _./+@,=:~- only, "
                      "at most %d; rename or move the file", path, HYDRO_PATH - 1);
    if (euidaccess(study, R_OK) < 0)
        return REFUSE("--hydro-bubble=%s: the study file cannot be read (%m); give the path of a Python file", path);
    return 0;
}

/* Slurm may call it twice: for the environment, then for the command line. The last one counts. */
static int on_hydro_bubble(int value __attribute__((unused)), const char *argument, int remote)
{
    bool has_study = argument != NULL && strcmp(argument, "(null)") != 0;

    if (bubbles_given && !remote)
        return REFUSE_BOTH;
    bubble_given = true;
    study[0] = '\0';
    if (remote && has_study && hydro_is_safe_path(argument))
        strcpy(study, argument);
    if (remote)
        return 0;
    if (has_study && argument[0] == '\0')
        return REFUSE("--hydro-bubble= has no study behind the equals sign; leave the sign out or name a file");
    return has_study ? take_study(argument) : 0;
}

static int on_bubbles(int value __attribute__((unused)), const char *argument, int remote)
{
    unsigned min, max;

    if (remote)
        return 0;
    if (!is_sbatch())
        return REFUSE("--bubbles is for sbatch only (the devices are found while the job waits); "
                      "submit a script that runs: srun hydro-trial STUDY");
    if (bubble_given)
        return REFUSE_BOTH;
    bubbles_given = true;
    if (!hydro_parse_bubbles(argument, &min, &max))
        return REFUSE("--bubbles=%s is not a number of devices; write --bubbles=N or --bubbles=MIN-MAX "
                      "with 1 <= MIN <= MAX <= %d", argument ? argument : "", HYDRO_MAX_BUBBLES);
    return 0;
}

const char *hydro_client_study(void) { return bubble_given ? study : NULL; }

static struct spank_option options[] = {
    { "hydro-bubble", "STUDY", "[hydro] lend this job's pipeline bubbles to hyperparameter trials; "
      "with =STUDY (sbatch only) run that study in them", 2, 0, on_hydro_bubble },
    { "bubbles", "N|MIN-MAX", "[hydro] sbatch only: run this study in the bubbles of N devices in all",
      1, 1, on_bubbles },
};

int hydro_client_init(spank_t spank)
{
    /* Slurm hands a job's options on to what runs in it; they are about that job, not about the next. */
    unsetenv("SLURM_SPANK__SLURM_SPANK_OPTION_hydro_hydro_bubble");
    unsetenv("SLURM_SPANK__SLURM_SPANK_OPTION_hydro_bubbles");
    unsetenv("SLURM_SPANK_HYDRO_BUBBLE");
    return hydro_client_register(spank);
}

int hydro_client_register(spank_t spank)
{
    if (spank_option_register(spank, &options[0]) || spank_option_register(spank, &options[1]))
        slurm_error("hydro: Slurm did not take the options --hydro-bubble and --bubbles");
    return 0;
}

/* Tells prolog, epilog and job_submit; root trusts nothing of it but that it was given. */
int hydro_client_post_opt(spank_t spank)
{
    if (bubble_given && spank_context() == S_CTX_LOCAL && getenv("SLURM_JOB_ID") != NULL)
        slurm_spank_log("hydro: --hydro-bubble is ignored in a step; give it to what made the job");
    else if (bubble_given && spank_job_control_setenv(spank, "HYDRO_BUBBLE", study[0] ? study : "1", 1))
        slurm_error("hydro: Slurm did not take the opt-in, so no bubble of this job will be lent");
    return 0;
}
