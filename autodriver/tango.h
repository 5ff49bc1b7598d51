#ifndef AUTODRIVER_TANGO_H
#define AUTODRIVER_TANGO_H

/* Tango's autodriver: `autodriver [-u N] [-f N] [-t N] [-o N] DIRECTORY`, setuid root, called by
 * another user than the one it grades as. Same options, lines, messages and exit codes. Returns the
 * exit code. */

int tango_main(int argc, char **argv);

#endif
