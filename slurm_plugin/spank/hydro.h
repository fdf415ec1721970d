/* What the files of Hydro's SPANK plugin share. One file per place where Slurm runs the plugin. */
#ifndef HYDRO_H
#define HYDRO_H
#include <slurm/slurm.h>
#include <slurm/spank.h>
#include <stdbool.h>

enum { HYDRO_PATH = 1024, HYDRO_TEXT = 512, HYDRO_BOUND = 16, HYDRO_MAX_BUBBLES = 65535, HYDRO_MAX_LANES = 64 };

/* hydro_parse.c: text that others wrote, taken apart by a grammar; no Slurm, no files. */
bool hydro_parse_bubbles(const char *text, unsigned *min, unsigned *max);
bool hydro_parse_numbers(const char *text, unsigned numbers[HYDRO_MAX_LANES], size_t *count);
const char *hydro_cut_bound(const char *argument, char bound[HYDRO_BOUND]);
bool hydro_is_safe_path(const char *text);
bool hydro_is_trial(int argc, char *const argv[]);

/* hydro_config.c: root's settings, and root's word on a job. */
struct hydro_config {
    char path[HYDRO_PATH], page_dir[HYDRO_PATH], python[HYDRO_PATH], program[HYDRO_PATH];
};
enum hydro_role { HYDRO_NOT_OURS, HYDRO_LENDER, HYDRO_TENANT };
bool hydro_config_read(struct hydro_config *config, int argc, char *argv[]);
enum hydro_role hydro_role_of(const struct hydro_config *config, unsigned job_id);

/* hydro_lanes.c: asks hydro-lanes.pyz, as root; starts the study of --hydro-bubble=STUDY, as the user. */
struct hydro_task {
    uint32_t job_id, step_id;
    uid_t uid;
};
struct hydro_answer {
    char lanes[HYDRO_TEXT], reason[HYDRO_TEXT]; /* "0,1" or ""; why there is no lane */
    unsigned cores[HYDRO_MAX_LANES];            /* of CPU-core devices only */
    size_t num_lanes, num_cores;
};
void hydro_lanes_ask(const struct hydro_config *config, const char *verb, const struct hydro_task *task,
                     struct hydro_answer *answer);
void hydro_study_start(const struct hydro_config *config, const char *study, char *const environment[]);

/* hydro_client.c: the options; in sbatch, salloc and srun, as the user. */
int hydro_client_init(spank_t spank);
int hydro_client_post_opt(spank_t spank);
extern struct hydro_choice {
    bool lends;                                /* --hydro-bubble was given */
    char study[HYDRO_PATH], bound[HYDRO_BOUND]; /* in a step as the user typed them; "": none */
} hydro_choice;

/* hydro_step.c: in slurmstepd. Always 0: anything else can drain a node. */
int hydro_step_init(spank_t spank, int argc, char *argv[]);
int hydro_step_privileged(spank_t spank);
int hydro_step_task(spank_t spank);
int hydro_step_exit(spank_t spank);
#endif
