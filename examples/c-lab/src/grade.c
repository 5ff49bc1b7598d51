/* Grades list.c. Each problem runs in a process of its own, so that a crash or an endless loop in one costs only that one. */
#define _DEFAULT_SOURCE
#include "list.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct node *from(const int *v, int n)
{
    struct node *head = NULL;

    while (n-- > 0) {
        struct node *x = malloc(sizeof(*x));
        if (!x)
            exit(1);
        x->value = v[n];
        x->next = head;
        head = x;
    }
    return head;
}

static int same(const struct node *head, const int *v, int n)
{
    for (; n > 0 && head; n--, v++, head = head->next)
        if (head->value != *v)
            return 0;
    return n == 0 && !head;
}

static int test_insert(void)
{
    static const int want[] = {3, 2, 1};
    struct node *head = NULL;

    for (int i = 1; i <= 3; i++)
        head = list_insert(head, i);
    return same(head, want, 3);
}

static int test_reverse(void)
{
    static const int in[] = {1, 2, 3, 4}, want[] = {4, 3, 2, 1};

    return same(list_reverse(from(in, 4)), want, 4) && same(list_reverse(NULL), NULL, 0);
}

static int test_sort(void)
{
    static const int in[] = {5, -1, 3, 3, 0}, want[] = {-1, 0, 3, 3, 5};

    return same(list_sort(from(in, 5)), want, 5) && same(list_sort(NULL), NULL, 0);
}

static int grade(const char *name, int (*test)(void), int points)
{
    int status = 0;

    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(5);
        _exit(test() ? 0 : 1);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return 0;
    int ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("%-8s %s", name, ok ? "ok" : "wrong");
    if (WIFSIGNALED(status))
        printf(" (signal %d)", WTERMSIG(status));
    printf("\n");
    return ok ? points : 0;
}

int main(void)
{
    int insert = grade("Insert", test_insert, 20);
    int reverse = grade("Reverse", test_reverse, 30);
    int sort = grade("Sort", test_sort, 50);

    /* the last line is what Autolab reads */
    printf("{\"scores\": {\"Insert\": %d, \"Reverse\": %d, \"Sort\": %d}}\n", insert, reverse, sort);
    return 0;
}
