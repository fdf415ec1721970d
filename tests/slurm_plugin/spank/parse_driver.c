/* Reads "<function> <text>" lines and prints what hydro_parse.c makes of each; the test compares. */
#include "hydro.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void bubbles(const char *text)
{
    unsigned min = 0, max = 0;

    if (hydro_parse_bubbles(text, &min, &max))
        printf("%u-%u\n", min, max);
    else
        puts("refused");
}

static void numbers(const char *text)
{
    unsigned found[HYDRO_MAX_LANES];
    size_t count;

    if (!hydro_parse_numbers(text, found, &count)) {
        puts("refused");
        return;
    }
    for (size_t i = 0; i < count; ++i)
        printf("%u ", found[i]);
    putchar('\n');
}

static void bound(const char *text)
{
    char *found = malloc(HYDRO_BOUND); /* the sanitizer sees every overrun */
    const char *study = hydro_cut_bound(text, found);

    printf("%s|%s\n", found, study);
    free(found);
}

static void trial(char *text)
{
    char *argv[16], *rest = NULL;
    int argc = 0;

    for (char *word = strtok_r(text, " ", &rest); word && argc < 16; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    puts(hydro_is_trial(argc, argv) ? "yes" : "no");
}

int main(void)
{
    char *line = NULL;
    size_t size = 0;

    while (getline(&line, &size, stdin) > 0) {
        char *text = strchr(line, ' ');

        line[strcspn(line, "\n")] = '\0';
        text = strdup(text ? text + 1 : ""); /* its own allocation: the sanitizer sees every overrun */
        if (strncmp(line, "bubbles", 7) == 0)
            bubbles(text);
        else if (strncmp(line, "numbers", 7) == 0)
            numbers(text);
        else if (strncmp(line, "bound", 5) == 0)
            bound(text);
        else if (strncmp(line, "trial", 5) == 0)
            trial(text);
        else
            puts(hydro_is_safe_path(text) ? "yes" : "no");
        free(text);
    }
    free(line);
    return 0;
}
