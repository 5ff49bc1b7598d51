#include "client/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct arg *find(const char *text, size_t len, const struct arg *args, size_t arg_ct)
{
    for (size_t i = 0; i < arg_ct; i++)
        if (strlen(args[i].name) == len && strncmp(args[i].name, text, len) == 0)
            return &args[i];
    return NULL;
}

int args_take(int argc, char **argv, const struct arg *args, size_t arg_ct)
{
    int to = 0, i;

    for (i = 0; i < argc && strcmp(argv[i], "--") != 0; i++) {
        size_t len = strcspn(argv[i], "=");
        const struct arg *a;

        if (argv[i][0] != '-' || argv[i][1] == '\0') {
            argv[to++] = argv[i];
            continue;
        }
        a = find(argv[i], len, args, arg_ct);
        if (a == NULL || (a->flag != NULL && argv[i][len] == '=')) {
            fprintf(stderr, "milonga: there is no option %s here; see milonga help\n", argv[i]);
            return -EINVAL;
        }
        if (a->flag != NULL) {
            *a->flag = true;
        } else if (argv[i][len] == '=') {
            *a->value = argv[i] + len + 1;
        } else if (i + 1 < argc) {
            *a->value = argv[++i];
        } else {
            fprintf(stderr, "milonga: %s needs a value\n", argv[i]);
            return -EINVAL;
        }
    }
    for (i += i < argc; i < argc; i++)
        argv[to++] = argv[i];
    argv[to] = NULL;
    return to;
}

int args_number(const char *what, const char *text, long min, long max, long *ret,
                struct error *err)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || n < min || n > max)
        return err_set(err, ERR_REFUSED, EINVAL, "%s \"%s\" is not a number from %ld to %ld", what,
                       text, min, max);
    *ret = n;
    return 0;
}

long client_job_id(const char *text)
{
    struct error err = ERROR_INIT;
    long id;

    if (args_number("job id", text, 1, 2147483647, &id, &err) < 0) {
        client_fail(&err);
        return 0;
    }
    return id;
}
