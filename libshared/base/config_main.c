#include "base/config_private.h"
#include "base/mem.h"
#include "base/name.h"

#include <ctype.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

/* what gcc defines and clang does not */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#elif __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

static void print_version(const char *service)
{
#if defined(__clang__)
    static const char compiler[] = "clang " __clang_version__;
#else
    static const char compiler[] = "gcc " __VERSION__;
#endif
#if defined(__SANITIZE_ADDRESS__)
    static const char extra[] = ", address sanitizer";
#elif defined(__SANITIZE_THREAD__)
    static const char extra[] = ", thread sanitizer";
#elif defined(__OPTIMIZE__)
    static const char extra[] = ", optimized";
#else
    static const char extra[] = "";
#endif
    printf("milonga %s %s (%s%s)\n", service, MILONGA_VERSION, compiler, extra);
}

static void print_help(const char *program, const char *service)
{
    printf(
        "usage: %s [--config FILE] [--check-config%s | --version | --help]\n\n"
        "The %s service of Milonga. FILE (or the variable MILONGA_CONFIG) holds lines\n"
        "\"key = value\" and # comments. The environment, named in brackets, wins over the file.\n"
        "Durations take ms s m h d, sizes k M G T.\n\n",
        program, strcmp(service, "vmm") == 0 ? " | --check-hosts" : "", service);
    config_help(stdout);
}

/* A variable that is nearly one of ours is a typing error that would otherwise go unseen. */
static void warn_of_variables(void)
{
    static const char head[] = "MILONGA_";
    char name[CONFIG_ENV_MAX];

    for (char **e = environ; *e; e++) {
        size_t len = strcspn(*e, "=");
        if (strncmp(*e, head, strlen(head)) != 0 || len >= sizeof(name))
            continue;
        size_t n = len - strlen(head);
        for (size_t i = 0; i < n; i++)
            name[i] = (char)tolower((unsigned char)(*e)[strlen(head) + i]);
        name[n] = '\0';
        if (strcmp(name, "config") == 0 || config_key_find(name, n))
            continue;
        const struct config_key *guess = config_key_guess(name);
        if (!guess)
            continue;
        char env[CONFIG_ENV_MAX];
        cleanup_free char *given = xstrndup(*e, len);
        config_env_name(guess, env, sizeof(env));
        log_event(LOG_WARN_, "config.unknown_variable", "name", given, "did_you_mean", env, NULL);
    }
}

static void warn_of_keys(const struct config *c)
{
    for (size_t i = 0; i < c->key_ct; i++)
        if (key_equal(c->key_list[i].key, strlen(c->key_list[i].key), "test", 4))
            log_event(LOG_WARN_, "config.default_key", "tenant", c->key_list[i].tenant, "reason",
                      "THE KEY IS \"test\", WHICH EVERYBODY KNOWS: anyone who reaches the api can "
                      "run programs; set keys, MILONGA_KEYS or RESTFUL_KEY",
                      NULL);
}

struct config *config_main(int argc, char **argv, const char *service)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"check-config", no_argument, NULL, 'k'},
                                            {"version", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *path = getenv("MILONGA_CONFIG");
    struct error err = ERROR_INIT;
    struct config *c = NULL;
    int opt, act = 0;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt == '?')
            exit(2);
        if (opt == 'c')
            path = optarg;
        else if (act == 0 || opt == 'h')
            act = opt;
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument %s; --help lists the options\n", argv[0],
                argv[optind]);
        exit(2);
    }
    if (path && *path == '\0')
        path = NULL;
    if (act == 'v') {
        print_version(service);
        exit(0);
    }
    if (act == 'h') {
        print_help(argv[0], service);
        exit(0);
    }
    if (act == 'k') {
        int ct = config_check(path, stdout);
        if (ct == 0)
            printf("%s: ok\n", path ? path : "environment");
        exit(ct ? 1 : 0);
    }
    if (config_load(path, &c, &err) < 0) {
        fprintf(stderr, "%s: %s\n", argv[0], err.msg);
        exit(1);
    }
    enum log_level level = LOG_INFO_;
    log_level_parse(c->log_level, &level);
    log_setup(service, level, c->log_json);
    warn_of_variables();
    if (strcmp(service, "api") == 0)
        warn_of_keys(c); /* nobody else lets anyone in by them */
    return c;
}
