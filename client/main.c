#include "client/client.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(const struct config *cfg, int argc, char **argv);
    const char *help;
};

static const struct command commands[] = {
    {"image", client_image,
     "  image import FILE --name NAME   take a `docker save` archive, an OCI layout or a root "
     "file\n"
     "                                  system (tar, also compressed) into the store of the oci "
     "driver\n"
     "  image list                      name, digest, size, layers, time of import\n"
     "  image remove NAME               unless a machine uses it\n"},
};

static void usage(FILE *out)
{
    fputs("usage: milonga [--config FILE] COMMAND ...\n\n", out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fputs(commands[i].help, out);
    fputs("\n  --config FILE   configuration (default: $MILONGA_CONFIG); data_dir says where "
          "images are\n"
          "  --version, --help\n",
          out);
}

/* Takes --config FILE out of argv, wherever it stands. -1 when its value is missing. */
static int take_config(int *argc, char **argv, const char **ret)
{
    int to = 1;

    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--config") == 0) {
            if (++i == *argc)
                return -1;
            *ret = argv[i];
        } else if (strncmp(argv[i], "--config=", 9) == 0) {
            *ret = argv[i] + 9;
        } else {
            argv[to++] = argv[i];
        }
    }
    *argc = to;
    argv[to] = NULL;
    return 0;
}

int main(int argc, char **argv)
{
    const char *path = getenv("MILONGA_CONFIG");
    struct error err = ERROR_INIT;
    struct config *cfg;

    log_setup("milonga", LOG_WARN_, 0);
    if (take_config(&argc, argv, &path) < 0 || argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("milonga " MILONGA_VERSION);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0) {
            int status;

            if (config_load(path != NULL && path[0] != '\0' ? path : NULL, &cfg, &err) < 0) {
                fprintf(stderr, "milonga: %s\n", err.msg);
                return 1;
            }
            status = commands[i].run(cfg, argc - 2, argv + 2);
            config_free(cfg);
            return status;
        }
    fprintf(stderr, "milonga: unknown command \"%s\"\n", argv[1]);
    usage(stderr);
    return 2;
}
