/* Root's settings (lanes.conf) and root's word on a job (page_dir/jobs/<id>). */
#include "hydro.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Only what root owns and nobody else can write is worth reading. */
static int open_of_root(const char *path)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return -1;
    if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_uid == 0 &&
        (facts.st_mode & 022) == 0)
        return fd;
    slurm_error("hydro: %s: not a file that only root can write; mend its owner or mode", path);
    close(fd);
    return -1;
}

/* One line `key = value`; all but three keys are for hydro-lanes.pyz alone. */
static void take_line(struct hydro_config *config, const char *line)
{
    char key[32], value[HYDRO_PATH_MAX];

    if (sscanf(line, " %31[a-z_] = %1023[^\n \t]", key, value) != 2)
        return;
    if (strcmp(key, "page_dir") == 0)
        strcpy(config->page_dir, value);
    else if (strcmp(key, "python") == 0)
        strcpy(config->python, value);
    else if (strcmp(key, "program") == 0)
        strcpy(config->program, value);
}

/* Fills `config` from the file of plugstack's config=PATH; false: nothing is shared on this node. */
bool hydro_config_read(struct hydro_config *config, int argc, char *argv[])
{
    char line[HYDRO_PATH_MAX + 64];
    FILE *file;
    int fd;

    *config = (struct hydro_config){ .path = "/etc/slurm/hydro/lanes.conf",
                                     .page_dir = "/run/hydro",
                                     .python = "/usr/bin/python3",
                                     .program = "/usr/lib/hydro/hydro-lanes.pyz" };
    for (int i = 0; i < argc; ++i)
        if (strncmp(argv[i], "config=", 7) == 0)
            snprintf(config->path, sizeof config->path, "%s", argv[i] + 7);
    if ((fd = open_of_root(config->path)) < 0 || (file = fdopen(fd, "r")) == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL)
        take_line(config, line);
    fclose(file);
    return true;
}

/* A job without such a file is not ours: this is all that it costs. */
enum hydro_role hydro_role_of(const struct hydro_config *config, unsigned job_id)
{
    char path[HYDRO_PATH_MAX + 32], word[8] = "";
    int fd;

    snprintf(path, sizeof path, "%s/jobs/%u", config->page_dir, job_id);
    if ((fd = open_of_root(path)) < 0)
        return HYDRO_NOT_OURS;
    if (read(fd, word, sizeof word - 1) < 0)
        word[0] = '\0';
    close(fd);
    if (strncmp(word, "lender", 6) == 0)
        return HYDRO_LENDER;
    return strncmp(word, "tenant", 6) == 0 ? HYDRO_TENANT : HYDRO_NOT_OURS;
}
