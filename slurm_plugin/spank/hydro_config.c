/* Root's settings (the file of plugstack's config=PATH) and root's word on a job (jobs/<id>). */
#include "hydro.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Only what root owns and nobody else can write is worth reading. */
static FILE *open_of_root(const char *path)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat facts;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_uid == 0 && !(facts.st_mode & 022))
        return fdopen(fd, "r");
    slurm_error("hydro: %s: others than root can write it; chown root, chmod 0644", path);
    close(fd);
    return NULL;
}

/* One line `key = value`; the other keys are for hydro-lanes.pyz alone. */
static void take_line(struct hydro_config *config, const char *line)
{
    char key[32], value[HYDRO_PATH], unknown[HYDRO_PATH];

    if (sscanf(line, " %31[a-z_] = %1023[^\n \t]", key, value) == 2)
        strcpy(strcmp(key, "page_dir") == 0  ? config->page_dir
               : strcmp(key, "python") == 0  ? config->python
               : strcmp(key, "program") == 0 ? config->program
                                             : unknown, value);
}

/* False: nothing is shared on this node. */
bool hydro_config_read(struct hydro_config *config, int argc, char *argv[])
{
    char line[HYDRO_PATH + 64];
    FILE *file;

    *config = (struct hydro_config){ "/etc/slurm/hydro/lanes.conf", "/run/hydro", "/usr/bin/python3",
                                     "/usr/lib/hydro/hydro-lanes.pyz" };
    for (int i = 0; i < argc; ++i)
        if (strncmp(argv[i], "config=", 7) == 0)
            snprintf(config->path, sizeof config->path, "%s", argv[i] + 7);
    if ((file = open_of_root(config->path)) == NULL)
        return false;
    while (fgets(line, sizeof line, file) != NULL)
        take_line(config, line);
    fclose(file);
    return true;
}

/* A job without such a file is not ours: this is all that it costs. */
enum hydro_role hydro_role_of(const struct hydro_config *config, unsigned job_id)
{
    char path[HYDRO_PATH + 32], word[16] = "";
    FILE *file;

    snprintf(path, sizeof path, "%s/jobs/%u", config->page_dir, job_id);
    if ((file = open_of_root(path)) == NULL || fgets(word, sizeof word, file) == NULL)
        word[0] = '\0';
    if (file != NULL)
        fclose(file);
    if (strcmp(word, "lender\n") == 0)
        return HYDRO_LENDER;
    return strcmp(word, "tenant\n") == 0 ? HYDRO_TENANT : HYDRO_NOT_OURS;
}
