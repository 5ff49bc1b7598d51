#include "client/client.h"

#include "base/clock.h"
#include "base/mem.h"
#include "services/vmm/image.h"

#include <stdio.h>
#include <string.h>

static int bad_use(void)
{
    fputs("usage: milonga image import FILE --name NAME | image list | image remove NAME\n",
          stderr);
    return 2;
}

static int import(struct image_store *s, int argc, char **argv, struct error *err)
{
    const char *file = NULL, *name = NULL;
    struct image_info info;
    int r;

    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--name") == 0 && i + 1 < argc)
            name = argv[++i];
        else if (strncmp(argv[i], "--name=", 7) == 0)
            name = argv[i] + 7;
        else if (file == NULL)
            file = argv[i];
        else
            return bad_use();
    }
    if (file == NULL || name == NULL)
        return bad_use();
    r = image_import(s, file, name, &info, err);
    if (r < 0)
        return r;
    printf("%s %s\n", info.name, info.digest);
    image_info_done(&info);
    return 0;
}

static void show(void *arg, const struct image_info *i)
{
    char when[32];

    (void)arg;
    clock_ctime_utc(i->imported_ms, when, sizeof(when));
    printf("%-40s %s %8.1f MB %3zu layers  %s\n", i->name, i->digest, (double)i->bytes / 1e6,
           i->layer_ct, when);
}

static int run(struct image_store *s, int argc, char **argv, struct error *err)
{
    if (strcmp(argv[0], "import") == 0)
        return import(s, argc - 1, argv + 1, err);
    if (strcmp(argv[0], "list") == 0 && argc == 1)
        return image_list(s, show, NULL, err);
    if (strcmp(argv[0], "remove") == 0 && argc == 2)
        return image_remove(s, argv[1], err);
    return bad_use();
}

int cmd_image(struct client *c, int argc, char **argv)
{
    struct error err = ERROR_INIT;
    const struct config *cfg;
    struct image_store *s;
    int r;

    if (argc < 1)
        return bad_use();
    cfg = client_config(c, &err);
    if (cfg == NULL)
        return client_fail(&err);
    r = image_store_open(cfg->data_dir, &s, &err);
    if (r == 0) {
        r = run(s, argc, argv, &err);
        image_store_close(s);
    }
    return r < 0 ? client_fail(&err) : r;
}
