#ifndef HOSTDRIVER_FILTER_H
#define HOSTDRIVER_FILTER_H

/* The system calls that a job run directly on a host is denied: by no_new_privs it has no more
 * rights than any account, but those reach kernel code that no course work needs. The same list as
 * the oci driver's, as a classic BPF program, since a static program brings no libseccomp. */

/* For this process and all below it; needs no_new_privs or CAP_SYS_ADMIN. 0 or -errno. */
int filter_install(void);

#endif
