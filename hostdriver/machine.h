#ifndef HOSTDRIVER_MACHINE_H
#define HOSTDRIVER_MACHINE_H

/* One machine: stdin and stdout are the autodriver's. What is said on stderr, a line each:
 *
 *   milonga: up                   the name is taken, the autodriver is starting
 *   milonga: failed WHY           it could not be made; nothing is left
 *   milonga: end oom=0|1 clean=0|1
 *                                 it has ended; oom=1: a process was killed at the memory limit;
 *                                 clean=1: nothing is left
 *
 * It ends with the autodriver, with the keeper, or by SIGTERM, SIGINT, SIGHUP.
 *
 * Keys: name epoch mode program (the autodriver's file in DIR), limits memory_mb pids cores_milli
 * disk_bytes disk_files (0: none), network=0|1, image (an engine's id). */
int machine_main(const char *dir, char **args);

#endif
