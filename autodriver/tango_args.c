#include "tango_args.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 1

enum { OPTION_USAGE = 256 };

static const struct option options[] = {
    {"nproc", required_argument, NULL, 'u'},
    {"fsize", required_argument, NULL, 'f'},
    {"timeout", required_argument, NULL, 't'},
    {"osize", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, '?'},
    {"usage", no_argument, NULL, OPTION_USAGE},
    {NULL, 0, NULL, 0},
};

static const char help[] =
    "Usage: autodriver [OPTION...] DIRECTORY\n"
    "Runs make in DIRECTORY as the grading user, under limits, and prints what it wrote.\n\n"
    "  -f, --fsize=size           Limit of the size of a file, in bytes\n"
    "  -o, --osize=size           Limit of the output that is printed, in bytes\n"
    "  -t, --timeout=time         Limit of the time, in seconds\n"
    "  -u, --nproc=number         Limit of the processes of the grading user\n"
    "  -?, --help                 Give this help list\n"
    "      --usage                Give a short usage message\n\n"
    "An absent limit, or 0, is none. As `autodriver --pipe`, it is Milonga's.\n";

static const char usage[] =
    "Usage: autodriver [-?] [-f size] [-o size] [-t time] [-u number] [--fsize=size]\n"
    "            [--osize=size] [--timeout=time] [--nproc=number] [--help] [--usage]\n"
    "            DIRECTORY\n";

static int hint(int *ret_exit)
{
    fputs("Try `autodriver --help' or `autodriver --usage' for more information.\n", stderr);
    *ret_exit = EXIT_USAGE;
    return -1;
}

/* As strtoul with base 0 has it, hexadecimal and octal included. */
static int parse_number(const char *name, const char *text, unsigned *ret, int *ret_exit)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 0);
    if (errno || *text == '\0' || *end != '\0' || strchr(text, '-') || n > UINT_MAX) {
        fprintf(stderr, "autodriver: The argument to %s must be a nonnegative integer\n", name);
        *ret_exit = EXIT_USAGE;
        return -1;
    }
    *ret = (unsigned)n;
    return 0;
}

static int say_and_leave(const char *text, int *ret_exit)
{
    fputs(text, stdout);
    *ret_exit = 0;
    return -1;
}

/* getopt says '?' both for an error and for the option -?, which argp knows. */
static int on_question(char **argv, int *ret_exit)
{
    const char *word = argv[optind > 0 ? optind - 1 : 0];

    if (optopt == 0 || optopt == '?')
        if (strncmp(word, "--h", 3) == 0 || strncmp(word, "-?", 2) == 0)
            return say_and_leave(help, ret_exit);
    if (strncmp(word, "--", 2) == 0)
        fprintf(stderr, "autodriver: unrecognized option '%s'\n", word);
    else
        fprintf(stderr, "autodriver: invalid option -- '%c'\n", optopt);
    return hint(ret_exit);
}

static int on_option(int option, char **argv, struct tango_args *args, int *ret_exit)
{
    switch (option) {
    case 'u':
        return parse_number("nproc", optarg, &args->nproc, ret_exit);
    case 'f':
        return parse_number("fsize", optarg, &args->fsize, ret_exit);
    case 't':
        return parse_number("timeout", optarg, &args->timeout, ret_exit);
    case 'o':
        return parse_number("osize", optarg, &args->osize, ret_exit);
    case OPTION_USAGE:
        return say_and_leave(usage, ret_exit);
    case ':':
        fprintf(stderr, "autodriver: option requires an argument -- '%c'\n", optopt);
        return hint(ret_exit);
    default:
        return on_question(argv, ret_exit);
    }
}

int tango_args_parse(int argc, char **argv, struct tango_args *args, int *ret_exit)
{
    int option;

    memset(args, 0, sizeof(*args));
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":u:f:t:o:", options, NULL)) != -1)
        if (on_option(option, argv, args, ret_exit) < 0)
            return -1;
    if (optind + 1 != argc) {
        fprintf(stderr, "autodriver: Too %s arguments\n", optind >= argc ? "few" : "many");
        return hint(ret_exit);
    }
    args->directory = argv[optind];
    return 0;
}
