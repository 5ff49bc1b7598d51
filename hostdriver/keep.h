#ifndef HOSTDRIVER_KEEP_H
#define HOSTDRIVER_KEEP_H

/* The keeper: one session a connection, alive as long as a vmm uses the host. Lines in, lines out:
 *
 *   in                            out
 *   hello ID LEASE_MS MODE FILE   ready epoch=E cores=N memory_mb=N swept=N | busy OWNER | fail WHY
 *   beat                          alive N            (machines)
 *   list                          machine NAME ... and end, or fail WHY
 *   images                        image NAME ID ... and end, or fail WHY
 *   reap NAME                     reaped | fail WHY
 *
 * FILE is the autodriver in use; those of other versions, and hostdrivers that are not this one,
 * are removed. When its stdin ends, or no line came for LEASE_MS, it ends all machines and exits;
 * machines end themselves when it is gone. Exits 0 after its end, 1 when it could not begin. */
int keep_main(const char *dir);

#endif
