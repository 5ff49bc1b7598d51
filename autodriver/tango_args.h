#ifndef AUTODRIVER_TANGO_ARGS_H
#define AUTODRIVER_TANGO_ARGS_H

/* The command line of Tango's autodriver, as argp read it there. */

struct tango_args {
    unsigned nproc; /* 0 of each: no limit */
    unsigned fsize;
    unsigned timeout;
    unsigned osize;
    const char *directory;
};

/* 0: go on. Else *ret_exit is the code to leave with, everything is said. */
int tango_args_parse(int argc, char **argv, struct tango_args *args, int *ret_exit);

#endif
