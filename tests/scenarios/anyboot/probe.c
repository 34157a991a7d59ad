// The only program in an image without a shell: says what it was started as, and does a few
// things a shell would otherwise be needed for.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int show(int count, char **words) {
    char cwd[4096];
    gid_t groups[64];
    int joined = getgroups(64, groups);
    printf("uid %d gid %d groups", getuid(), getgid());
    for (int i = 0; i < joined; i++)
        printf(" %d", groups[i]);
    printf("\ncwd %s\n", getcwd(cwd, sizeof cwd) ? cwd : "?");
    for (int i = 0; i < count; i++)
        printf("word %s\n", words[i]);
    for (char **variable = environ; *variable; variable++)
        printf("env %s\n", *variable);
    return 0;
}

// Each path's mode in octal, 0 when there is nothing.
static int modes(int count, char **paths) {
    for (int i = 0; i < count; i++) {
        struct stat stat;
        printf("%s %o\n", paths[i], lstat(paths[i], &stat) ? 0 : stat.st_mode);
    }
    return 0;
}

static int print(const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return 1;
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
        if (write(1, buffer, got) != got)
            return 1;
    return 0;
}

static volatile sig_atomic_t told;

static void note(int signal) { told = signal; }

// A server that takes its time: ends a second after it is told, and writes down that it did.
static int serve(const char *path) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigset_t old;
    sigprocmask(SIG_BLOCK, &term, &old);
    signal(SIGTERM, note);
    signal(SIGHUP, SIG_IGN);
    if (fork())
        return 0;
    while (!told)
        sigsuspend(&old);
    for (int left = 3; left > 0; left = sleep(left))
        ;
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    return fd < 0 || write(fd, "orderly\n", 8) != 8;
}

// Leaves a hundred orphans behind that end at once.
static int orphans(void) {
    if (fork() == 0) {
        for (int i = 0; i < 100; i++)
            if (fork() == 0)
                _exit(0);
        _exit(0);
    }
    wait(NULL);
    return 0;
}

static int zombies(void) {
    int count = 0;
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        char path[300], line[512] = "";
        snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        if (fgets(line, sizeof line, file)) {
            char *name_end = strrchr(line, ')');
            count += name_end && name_end[2] == 'Z';
        }
        fclose(file);
    }
    printf("%d\n", count);
    return 0;
}

// Opens its standard output by name, as servers do that log to it.
static int by_name(void) {
    int fd = open("/dev/stdout", O_WRONLY);
    return fd < 0 || write(fd, "by name\n", 8) != 8;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "show";
    const char *with = count > 2 ? words[2] : "";
    if (!strcmp(what, "exit"))
        return atoi(with);
    if (!strcmp(what, "modes"))
        return modes(count - 2, words + 2);
    if (!strcmp(what, "print"))
        return print(with);
    if (!strcmp(what, "serve"))
        return serve(with);
    if (!strcmp(what, "orphans"))
        return orphans();
    if (!strcmp(what, "zombies"))
        return zombies();
    if (!strcmp(what, "by-name"))
        return by_name();
    return show(count - 1, words + 1);
}
