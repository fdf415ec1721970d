/* Text that others wrote, taken apart by a grammar. Pure: no Slurm, no files, no allocation. */
#include "hydro.h"

#include <string.h>

/* Reads 1 to 6 digits; moves *text behind them. */
static bool parse_number(const char **text, unsigned *value)
{
    const char *start = *text;

    for (*value = 0; **text >= '0' && **text <= '9' && *text - start < 7; ++*text)
        *value = *value * 10 + (unsigned)(**text - '0');
    return *text > start && *text - start < 7;
}

/* N or MIN-MAX, with 1 <= MIN <= MAX <= HYDRO_MAX_BUBBLES. */
bool hydro_parse_bubbles(const char *text, unsigned *min, unsigned *max)
{
    if (text == NULL || !parse_number(&text, min))
        return false;
    *max = *min;
    if (*text == '-' && (++text, !parse_number(&text, max)))
        return false;
    return *text == '\0' && *min >= 1 && *min <= *max && *max <= HYDRO_MAX_BUBBLES;
}

/* "0,3,4": numbers below 4096; the empty text is none. */
bool hydro_parse_numbers(const char *text, unsigned numbers[HYDRO_MAX_LANES], size_t *count)
{
    for (*count = 0; *text != '\0'; ++*count) {
        if (*count == HYDRO_MAX_LANES || (*count > 0 && *text++ != ','))
            return false;
        if (!parse_number(&text, &numbers[*count]) || numbers[*count] > 4095)
            return false;
    }
    return true;
}

/* "bound=0.5%,study.py": copies the bound and returns what is behind it. hydro.lua refuses what is no share. */
const char *hydro_cut_bound(const char *argument, char bound[HYDRO_BOUND])
{
    size_t length = strcspn(argument, ",");

    bound[0] = '\0';
    if (strncmp(argument, "bound=", 6) != 0)
        return argument;
    strncat(bound, argument + 6, length - 6 < HYDRO_BOUND ? length - 6 : HYDRO_BOUND - 1);
    return argument + length + (argument[length] == ',');
}

/* What may stand in a prolog's environment, an admin_comment and a command line without quoting. */
bool hydro_is_safe_path(const char *text)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+@,=:~-";
    size_t length = strlen(text);

    return length > 0 && length < HYDRO_PATH && strspn(text, allowed) == length;
}

/* Is this command `hydro-trial …` or `python -m hydro_hpc.trial… …`? */
bool hydro_is_trial(int argc, char *const argv[])
{
    static const char module[] = "hydro_hpc.trial";
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;

    if (argc > 0 && strcmp(slash ? slash + 1 : argv[0], "hydro-trial") == 0)
        return true;
    for (int i = 1; i + 1 < argc && argv[i][0] == '-'; ++i)
        if (strcmp(argv[i], "-m") == 0)
            return strncmp(argv[i + 1], module, strlen(module)) == 0 &&
                   strchr(".", argv[i + 1][strlen(module)]) != NULL;
    return false;
}
