#include "client/client.h"

#include "base/log.h"
#include "base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(struct client *c, int argc, char **argv);
    const char *use;
    const char *help;
};

static const struct command commands[] = {
    {"submit", cmd_submit, "DIR --image IMAGE",
     "put the files of DIR into a lab, run them as one job; options: --lab --name --makefile\n"
     "--timeout S --cores N --memory MB --label L,... --class N --no-network --callback URL\n"
     "--output NAME (of the feedback)\n"
     "--follow (live output; ends with the job's exit status) --idempotency-key KEY"},
    {"jobs", cmd_jobs, "",
     "newest first; --state live|queued|...|finished --verdict V --lab L --image I\n"
     "--limit N --cursor ID (what comes after it)"},
    {"job", cmd_job, "ID", "all about one job, its trace last"},
    {"why", cmd_why, "ID", "why a job waits: what it needs, what there is, how long"},
    {"logs", cmd_logs, "ID [-f]",
     "what the job wrote; -f: as it comes, then the job's exit status"},
    {"feedback", cmd_feedback, "ID", "the text that a student sees"},
    {"cancel", cmd_cancel, "ID...", "queued or running"},
    {"requeue", cmd_requeue, "ID", "run a finished job again, as a new one"},
    {"labs", cmd_labs, "[LAB]", "labs, or the files of one"},
    {"callbacks", cmd_callbacks, "[retry ID]", "those that are not delivered; or deliver one now"},
    {"vmms", cmd_vmms, "", "the hosts that run jobs, and why one is out"},
    {"drain", cmd_drain, "VMM [--reason TEXT]", "give it no more jobs"},
    {"resume", cmd_resume, "VMM", "end a drain"},
    {"machines", cmd_machines, "", "idle and busy ones"},
    {"pools", cmd_pools, "", "machines kept warm, by image"},
    {"prealloc", cmd_prealloc, "IMAGE N",
     "keep N machines warm (--cores N --memory MB); N \"default\": no wish"},
    {"images", cmd_images, "[push FILE NAME | remove NAME]",
     "all; upload a `docker save` archive; remove one. --shared, --own: of which tenants"},
    {"stats", cmd_stats, "", "the installation in figures"},
    {"top", cmd_top, "", "all of it as a table that keeps itself current; --once: one page"},
    {"doctor", cmd_doctor, "", "check the whole installation; each fault with its remedy"},
    {"bench", cmd_bench, "--image IMAGE", "trivial jobs, timed; --jobs N --parallel N"},
    {"image", cmd_image, "import FILE --name NAME | list | remove NAME",
     "the oci driver's images in data_dir of this host, without an api"},
};

static void print_help(FILE *out, const char *help)
{
    for (const char *line = help; *line != '\0';) {
        size_t len = strcspn(line, "\n");

        fprintf(out, "      %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
}

static void usage(FILE *out)
{
    fputs("usage: milonga [OPTION...] COMMAND ...\n\n", out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        fprintf(out, "  %s%s%s\n", commands[i].name, commands[i].use[0] != '\0' ? " " : "",
                commands[i].use);
        print_help(out, commands[i].help);
    }
    fputs("\n  --url URL       of an api (default: $MILONGA_URL, else this host's)\n"
          "  --key KEY       better by $MILONGA_KEY: other users see a command line\n"
          "  --json          machine-readable; also when the output is no terminal\n"
          "  --table         for people, also when it is none\n"
          "  --config FILE   configuration (default: $MILONGA_CONFIG); tells port and key on the "
          "server itself\n"
          "  --version, --help\n",
          out);
}

/* The options before the command; the number of arguments taken, negative for a bad one. */
static int take_options(struct client *c, int argc, char **argv, bool *table, bool *help,
                        bool *version)
{
    const struct arg args[] = {{"--url", &c->url, NULL},
                               {"--key", &c->key, NULL},
                               {"--config", &c->config_path, NULL},
                               {"--json", NULL, &c->json},
                               {"--table", NULL, table},
                               {"--help", NULL, help},
                               {"-h", NULL, help},
                               {"--version", NULL, version}};
    int used = 0;

    while (used < argc && argv[used][0] == '-') {
        char *one[3] = {argv[used], used + 1 < argc ? argv[used + 1] : NULL, NULL};
        bool whole = strchr(argv[used], '=') != NULL;
        int left;

        for (size_t i = 0; i < ARRAY_SIZE(args); i++)
            whole = whole || (args[i].flag != NULL && strcmp(args[i].name, argv[used]) == 0);
        left = args_take(whole || one[1] == NULL ? 1 : 2, one, args, ARRAY_SIZE(args));
        if (left < 0)
            return -1;
        used += whole ? 1 : 2;
    }
    return used;
}

static int run(struct client *c, int argc, char **argv)
{
    for (size_t i = 0; argc > 0 && i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].run(c, argc - 1, argv + 1);
    if (argc > 0)
        fprintf(stderr, "milonga: there is no command \"%s\"; milonga help lists all\n", argv[0]);
    else
        usage(stderr);
    return EXIT_USE;
}

static const char *from_env(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

int main(int argc, char **argv)
{
    struct client c = {.config_path = from_env("MILONGA_CONFIG"),
                       .url = from_env("MILONGA_URL"),
                       .key = from_env("MILONGA_KEY")};
    bool table = false, help = false, version = false;
    int used, status;

    log_setup("milonga", LOG_WARN_, 0);
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of write */
    used = take_options(&c, argc - 1, argv + 1, &table, &help, &version);
    if (used < 0)
        return EXIT_USE;
    argc -= 1 + used;
    argv += 1 + used;
    if (version) {
        puts("milonga " MILONGA_VERSION);
        return 0;
    }
    if (help || (argc > 0 && strcmp(argv[0], "help") == 0)) {
        usage(stdout);
        return 0;
    }
    c.json = !table && (c.json || !isatty(STDOUT_FILENO));
    c.color = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    status = run(&c, argc, argv);
    rest_free(c.rest);
    config_free(c.cfg);
    return status;
}
