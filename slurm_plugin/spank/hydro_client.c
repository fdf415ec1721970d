/* In sbatch, salloc and srun, as the user: the two options, and a clear word on bad values. */
#define _GNU_SOURCE
#include "hydro.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool bubble_given, bubbles_given;
static char study[HYDRO_PATH_MAX]; /* empty: --hydro-bubble without a study; in a step as the user typed it */

static const char *own_name(void)
{
    return spank_context() == S_CTX_LOCAL ? "srun" : program_invocation_short_name;
}

static bool is_sbatch(void)
{
    return spank_context() == S_CTX_ALLOCATOR && strcmp(own_name(), "salloc") != 0;
}

static int refuse_both(void)
{
    slurm_error("hydro: --hydro-bubble lends this job's bubbles and --bubbles asks for those of others; "
                "a job can do one of them, so submit two jobs");
    return -1;
}

/* Makes `path` absolute in `study`; says what is wrong with it otherwise. */
static int take_study(const char *path)
{
    char directory[HYDRO_PATH_MAX] = "";
    int length;

    if (!is_sbatch()) {
        slurm_error("hydro: --hydro-bubble=STUDY needs the batch job of sbatch to run beside; with %s give "
                    "--hydro-bubble and start the study by: srun --overlap hydro-trial %s", own_name(), path);
        return -1;
    }
    if (path[0] != '/' && getcwd(directory, sizeof directory - 1) == NULL) {
        slurm_error("hydro: --hydro-bubble=%s: the current directory cannot be read (%s); give an absolute path",
                    path, strerror(errno));
        return -1;
    }
    if (directory[0] != '\0')
        strcat(directory, "/");
    length = snprintf(study, sizeof study, "%s%s", directory, strncmp(path, "./", 2) ? path : path + 2);
    if (length >= (int)sizeof study || !hydro_is_safe_path(study)) {
        slurm_error("hydro: --hydro-bubble=%s: a study's path may have letters, digits and _./+@,=:~- only, "
                    "at most %d; rename or move the file", path, HYDRO_PATH_MAX - 1);
        return -1;
    }
    if (euidaccess(study, R_OK) < 0) {
        slurm_error("hydro: --hydro-bubble=%s: the study file cannot be read (%s); give the path of a Python file",
                    path, strerror(errno));
        return -1;
    }
    return 0;
}

static int on_hydro_bubble(int value, const char *argument, int remote)
{
    (void)value;
    if (bubbles_given && !remote)
        return refuse_both();
    bubble_given = true;
    study[0] = '\0';
    if (argument == NULL || strcmp(argument, "(null)") == 0)
        return 0;
    if (remote) {
        snprintf(study, sizeof study, "%s", hydro_is_safe_path(argument) ? argument : "");
        return 0;
    }
    if (argument[0] == '\0') {
        slurm_error("hydro: --hydro-bubble= has no study behind the equals sign; leave the sign out or name a file");
        return -1;
    }
    return take_study(argument);
}

static int on_bubbles(int value, const char *argument, int remote)
{
    unsigned min, max;

    (void)value;
    if (remote)
        return 0;
    if (!is_sbatch()) {
        slurm_error("hydro: --bubbles is for sbatch only (the devices are found while the job waits); "
                    "submit a script that runs: srun hydro-trial STUDY");
        return -1;
    }
    if (bubble_given)
        return refuse_both();
    bubbles_given = true;
    if (hydro_parse_bubbles(argument, &min, &max))
        return 0;
    slurm_error("hydro: --bubbles=%s is not a number of devices; write --bubbles=N or --bubbles=MIN-MAX "
                "with 1 <= MIN <= MAX <= %d", argument ? argument : "", HYDRO_MAX_BUBBLES);
    return -1;
}

static struct spank_option options[] = {
    { "hydro-bubble", "STUDY", "[hydro] lend this job's pipeline bubbles to hyperparameter trials; "
      "with =STUDY (sbatch only) run that study in them", 2, 0, on_hydro_bubble },
    { "bubbles", "N|MIN-MAX", "[hydro] sbatch only: run this study in the bubbles of N devices in all",
      1, 1, on_bubbles },
};

/* Only a step of a job that was submitted with it knows it. */
const char *hydro_client_study(void)
{
    return study;
}

/* Also called by hydro_step.c: Slurm wants the options registered in the step as well. */
int hydro_client_init(spank_t spank)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; ++i)
        if (spank_option_register(spank, &options[i]) != ESPANK_SUCCESS)
            slurm_error("hydro: Slurm did not take the option --%s", options[i].name);
    return 0;
}

/* Tells prolog, epilog and job_submit; root trusts nothing of it but that it was given. */
int hydro_client_post_opt(spank_t spank)
{
    if (!bubble_given)
        return 0;
    if (spank_context() == S_CTX_LOCAL && getenv("SLURM_JOB_ID") != NULL) {
        slurm_spank_log("hydro: --hydro-bubble is ignored in a step; give it to the sbatch or salloc that made the job");
        return 0;
    }
    if (spank_job_control_setenv(spank, "HYDRO_BUBBLE", study[0] ? study : "1", 1) != ESPANK_SUCCESS)
        slurm_error("hydro: Slurm did not take the opt-in, so no bubble of this job will be lent");
    return 0;
}
