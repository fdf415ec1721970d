/* What the files of Hydro's SPANK plugin share. One file per place where Slurm runs the plugin. */
#ifndef HYDRO_H
#define HYDRO_H

#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { HYDRO_PATH_MAX = 1024, HYDRO_MAX_BUBBLES = 65535, HYDRO_MAX_LANES = 64, HYDRO_TEXT = 512 };

/* hydro_parse.c: text that others wrote, taken apart by a grammar; no Slurm, no files. */
bool hydro_parse_bubbles(const char *text, unsigned *min, unsigned *max);
bool hydro_is_safe_path(const char *text);
bool hydro_parse_numbers(const char *text, int numbers[HYDRO_MAX_LANES], size_t *count);
bool hydro_is_trial(int argc, char *const argv[]);

/* hydro_config.c: root's settings, from the file that plugstack.conf names with config=PATH. */
struct hydro_config {
    char path[HYDRO_PATH_MAX];     /* of lanes.conf */
    char page_dir[HYDRO_PATH_MAX]; /* key page_dir */
    char python[HYDRO_PATH_MAX];   /* key python */
    char program[HYDRO_PATH_MAX];  /* key program: hydro-lanes.pyz */
};
enum hydro_role { HYDRO_NOT_OURS, HYDRO_LENDER, HYDRO_TENANT };
bool hydro_config_read(struct hydro_config *config, int argc, char *argv[]);
enum hydro_role hydro_role_of(const struct hydro_config *config, unsigned job_id);

/* hydro_lanes.c: runs hydro-lanes.pyz as root, with a clean environment and a time limit. */
struct hydro_task {
    unsigned job_id, step_id, uid;
    pid_t pid;
};
struct hydro_answer {
    char lanes[HYDRO_TEXT]; /* "0,1"; empty: none */
    int cores[HYDRO_MAX_LANES];
    size_t num_cores;        /* 0: the devices are not CPU cores */
    char reason[HYDRO_TEXT]; /* why there is no lane */
};
bool hydro_lanes_run(const struct hydro_config *config, const char *verb,
                     const struct hydro_task *task, struct hydro_answer *answer);

/* hydro_client.c: the options; in sbatch, salloc and srun, as the user. */
int hydro_client_init(spank_t spank);
int hydro_client_post_opt(spank_t spank);
const char *hydro_client_study(void);

/* hydro_step.c: in slurmstepd, for each step on its node. Always 0, so that no node is drained. */
int hydro_step_init(spank_t spank, int argc, char *argv[]);
int hydro_step_privileged(spank_t spank);
int hydro_step_task(spank_t spank);
int hydro_step_exit(spank_t spank);

/* hydro_gang.c: the study beside a batch job (--hydro-bubble=STUDY), as the user. */
void hydro_gang_start(spank_t spank, unsigned job_id, size_t num_lanes, const char *study);

#endif
