/* Text that others wrote, taken apart by a grammar. Pure: no Slurm, no files, no allocation. */
#include "hydro.h"

#include <string.h>

/* Reads 1 to 6 digits; moves *text behind them. */
static bool parse_number(const char **text, unsigned *value)
{
    unsigned digits = 0;

    for (*value = 0; **text >= '0' && **text <= '9'; ++*text, ++digits) {
        if (digits == 6)
            return false;
        *value = *value * 10 + (unsigned)(**text - '0');
    }
    return digits > 0;
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

/* What may stand in a prolog's environment, an admin_comment and a command line without quoting. */
bool hydro_is_safe_path(const char *text)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+@,=:~-";
    size_t length = strlen(text);

    return length > 0 && length < HYDRO_PATH_MAX && strspn(text, allowed) == length;
}

/* "0,3,4": numbers below 4096; the empty text is none. */
bool hydro_parse_numbers(const char *text, int numbers[HYDRO_MAX_LANES], size_t *count)
{
    unsigned value;

    for (*count = 0; *text != '\0'; ++*count) {
        if (*count > 0 && *text++ != ',')
            return false;
        if (*count == HYDRO_MAX_LANES || !parse_number(&text, &value) || value > 4095)
            return false;
        numbers[*count] = (int)value;
    }
    return true;
}

/* Is this command `hydro-trial …` or `python -m hydro_hpc.trial… …`? */
bool hydro_is_trial(int argc, char *const argv[])
{
    static const char module[] = "hydro_hpc.trial";
    const char *slash;

    if (argc < 1 || argv == NULL || argv[0] == NULL)
        return false;
    slash = strrchr(argv[0], '/');
    if (strcmp(slash ? slash + 1 : argv[0], "hydro-trial") == 0)
        return true;
    for (int i = 1; i + 1 < argc && argv[i] != NULL && argv[i][0] == '-'; ++i)
        if (strcmp(argv[i], "-m") == 0)
            return strncmp(argv[i + 1], module, sizeof module - 1) == 0 &&
                   strchr(".", argv[i + 1][sizeof module - 1]) != NULL;
    return false;
}
