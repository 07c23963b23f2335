/* What a step's process is and may do, told from inside of it.
 *
 *   probe facts            what there is, one fact a line
 *   probe escapes CANARY MARKER PID SOCKET
 *                          tries every way out; "refused NAME ERRNO" or
 *                          "OUT NAME" a line
 *
 * CANARY is a file of the host, MARKER a text that is in the builder's
 * environment, PID a process of the host, SOCKET an abstract socket's name. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* ---- facts ---- */

static void ids(void) {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    printf("uid %u %u %u\n", r, e, s);
    getresgid(&r, &e, &s);
    printf("gid %u %u %u\ngroups", r, e, s);
    gid_t groups[256];
    int n = getgroups(256, groups);
    for (int i = 0; i < n; i++) printf(" %u", groups[i]);
    printf("\n");
}

static void capabilities(void) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data) == 0) {
        printf("permitted %08x%08x\n", data[1].permitted, data[0].permitted);
        printf("effective %08x%08x\n", data[1].effective, data[0].effective);
        printf("inheritable %08x%08x\n", data[1].inheritable, data[0].inheritable);
    }
    uint64_t bounding = 0, ambient = 0;
    for (int cap = 0; cap < 64; cap++) {
        if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1) bounding |= 1ULL << cap;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1) ambient |= 1ULL << cap;
    }
    printf("bounding %016lx\nambient %016lx\n", bounding, ambient);
    printf("securebits %d\n", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    printf("seccomp %d\n", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    printf("dumpable %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
}

static void limit(const char *name, int resource) {
    struct rlimit now;
    getrlimit(resource, &now);
    printf("limit %s", name);
    for (int i = 0; i < 2; i++) {
        rlim_t value = i ? now.rlim_max : now.rlim_cur;
        if (value == RLIM_INFINITY) printf(" unlimited");
        else printf(" %lu", (unsigned long)value);
    }
    printf("\n");
}

static void process(void) {
    char buffer[4096];
    mode_t mask = umask(0);
    umask(mask);
    printf("umask %03o\n", mask);
    printf("cwd %s\n", getcwd(buffer, sizeof buffer) ? buffer : "?");
    gethostname(buffer, sizeof buffer);
    printf("hostname %s\n", buffer);
    int tty = open("/dev/tty", O_RDWR);
    printf("controlling terminal %s\n", tty < 0 ? "none" : "one");
    if (tty >= 0) close(tty);
    printf("session of its own %s\n", getsid(0) == getpid() || getsid(0) == getppid() ? "yes" : "no");
    printf("niceness %d\n", getpriority(PRIO_PROCESS, 0));
    sigset_t blocked;
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    printf("signals blocked");
    for (int i = 1; i < NSIG; i++) if (sigismember(&blocked, i) == 1) printf(" %d", i);
    printf("\nsignals not at default");
    for (int i = 1; i < NSIG; i++) {
        struct sigaction now;
        if (sigaction(i, NULL, &now) == 0 && now.sa_handler != SIG_DFL) printf(" %d", i);
    }
    printf("\n");
    limit("core", RLIMIT_CORE);
    limit("nofile", RLIMIT_NOFILE);
    limit("nproc", RLIMIT_NPROC);
    limit("memlock", RLIMIT_MEMLOCK);
    limit("stack", RLIMIT_STACK);
    limit("fsize", RLIMIT_FSIZE);
    limit("as", RLIMIT_AS);
}

static void descriptors(void) {
    for (int fd = 0; fd < 1024; fd++) {
        struct stat s;
        if (fstat(fd, &s) != 0) continue;
        const char *kind = S_ISFIFO(s.st_mode) ? "pipe" : S_ISCHR(s.st_mode) ? "device"
            : S_ISDIR(s.st_mode) ? "directory" : S_ISSOCK(s.st_mode) ? "socket"
            : S_ISREG(s.st_mode) ? "file" : "other";
        printf("descriptor %d %s", fd, kind);
        if (S_ISCHR(s.st_mode)) printf(" %u:%u", major(s.st_rdev), minor(s.st_rdev));
        printf("\n");
    }
}

static void environment(void) {
    size_t n = 0;
    while (environ[n]) n++;
    qsort(environ, n, sizeof *environ, by_text);
    for (size_t i = 0; i < n; i++) printf("environment %s\n", environ[i]);
}

static void lines(const char *name, const char *path) {
    FILE *file = fopen(path, "r");
    char line[8192];
    if (!file) {
        printf("%s not there\n", name);
        return;
    }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        printf("%s", name);
        for (char *word = strtok(line, " \t"); word; word = strtok(NULL, " \t")) printf(" %s", word);
        printf("\n");
    }
    fclose(file);
}

/* Whether kernels and machines differ in having it; covered() looks at what
 * such a mount is for. */
static int is_usual(const char *point) {
    const char *known[] = {"/proc/bus", "/proc/fs", "/proc/sys"};
    if (!strncmp(point, "/sys/", 5)) return 0;
    if (strncmp(point, "/proc/", 6)) return 1;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) if (!strcmp(point, known[i])) return 1;
    return 0;
}

/* Mount point, type, and the options that make a difference. */
static void mounts(void) {
    FILE *file = fopen("/proc/self/mountinfo", "r");
    char line[16384];
    if (!file) {
        printf("mounts not there\n");
        return;
    }
    while (fgets(line, sizeof line, file)) {
        char *words[64];
        int n = 0, dash = 0;
        line[strcspn(line, "\n")] = 0;
        for (char *word = strtok(line, " "); word && n < 64; word = strtok(NULL, " ")) {
            if (!strcmp(word, "-")) dash = n;
            words[n++] = word;
        }
        if (!dash || n < dash + 4 || !is_usual(words[4])) continue;
        char *size = strstr(words[dash + 3], "size=");
        /* A single device comes from wherever the host has its own. */
        struct stat s;
        int node = !strncmp(words[4], "/dev/", 5) && stat(words[4], &s) == 0 && S_ISCHR(s.st_mode);
        printf("mount %s %s", words[4], node ? "device" : words[dash + 1]);
        for (char *option = strtok(words[5], ","); option; option = strtok(NULL, ","))
            if (strcmp(option, "relatime") && !(node && !strncmp(option, "no", 2))) printf(" %s", option);
        for (int i = 6; i < dash; i++) printf(" %s", words[i]);
        if (size && !node) printf(" %.*s", (int)strcspn(size, ","), size);
        if (strstr(words[dash + 3], "userxattr")) printf(" userxattr");
        printf("\n");
    }
    fclose(file);
}

static void listing(const char *path) {
    char *names[512];
    int n = 0;
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir)) && n < 512;)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) names[n++] = strdup(e->d_name);
    closedir(dir);
    qsort(names, n, sizeof *names, by_text);
    for (int i = 0; i < n; i++) {
        char full[4096], link[4096];
        struct stat s;
        snprintf(full, sizeof full, "%s/%s", path, names[i]);
        if (lstat(full, &s) != 0) continue;
        printf("%s %06o %u:%u", full, s.st_mode, s.st_uid, s.st_gid);
        if (S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode))
            printf(" device %u:%u", major(s.st_rdev), minor(s.st_rdev));
        ssize_t len = S_ISLNK(s.st_mode) ? readlink(full, link, sizeof link - 1) : -1;
        if (len >= 0) printf(" -> %.*s", (int)len, link);
        printf("\n");
        if (S_ISDIR(s.st_mode)) listing(full);
    }
}

/* Whether something covers what tells about the host, or lets one write. */
static void covered(void) {
    const char *hidden[] = {"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore",
        "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
        "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
        "/sys/devices/virtual/powercap"};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        struct stat s;
        char byte;
        if (stat(hidden[i], &s) != 0) continue; /* depends on the kernel */
        int full = 0;
        if (S_ISDIR(s.st_mode)) {
            DIR *dir = opendir(hidden[i]);
            for (struct dirent *e; dir && (e = readdir(dir));) full |= e->d_name[0] != '.';
            if (dir) closedir(dir);
        } else {
            int fd = open(hidden[i], O_RDONLY);
            full = fd >= 0 && read(fd, &byte, 1) == 1;
            if (fd >= 0) close(fd);
        }
        if (full) printf("readable %s\n", hidden[i]);
    }
    const char *written[] = {"/proc/sys/kernel/domainname", "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern", "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/proc/mtrr"};
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        int fd = open(written[i], O_WRONLY);
        if (fd >= 0) printf("writable %s\n", written[i]);
        if (fd >= 0) close(fd);
    }
}

static int facts(void) {
    ids();
    lines("uid map", "/proc/self/uid_map");
    lines("gid map", "/proc/self/gid_map");
    lines("setgroups", "/proc/self/setgroups");
    capabilities();
    process();
    descriptors();
    environment();
    mounts();
    listing("/dev");
    covered();
    lines("oom_score_adj", "/proc/self/oom_score_adj");
    lines("hosts", "/etc/hosts");
    lines("hostname file", "/etc/hostname");
    return 0;
}

/* ---- escapes ---- */

static const char *canary, *marker, *socket_name;
static int host_pid;

/* `result` is what a call that must fail returned. */
static void must_fail(const char *name, long result) {
    int error = errno;
    if (result < 0) printf("refused %s %s\n", name, strerrorname_np(error));
    else printf("OUT %s\n", name);
    fflush(stdout);
}

/* As must_fail, in a process of its own: a success may change the caller. */
#define TRY(name, call) do { \
    pid_t child = fork(); \
    if (child == 0) { errno = 0; must_fail(name, (long)(call)); _exit(0); } \
    int status = 0; \
    waitpid(child, &status, 0); \
    if (WIFSIGNALED(status)) printf("refused %s killed\n", name); \
    fflush(stdout); \
} while (0)

static int opened(const char *path, int flags) {
    return open(path, flags | O_CLOEXEC);
}

/* Whether the host's file is there, seen from `prefix`. */
static int sees_canary(const char *prefix) {
    char path[4096];
    struct stat s;
    snprintf(path, sizeof path, "%s%s", prefix, canary);
    return stat(path, &s);
}

static int writes(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -1 : (int)write(fd, text, strlen(text));
}

/* The ways out of a changed root that have been known for decades. */
static int leaves_root(void) {
    int top = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/tmp/jail", 0700);
    if (chroot("/tmp/jail") != 0) return -1;
    if (fchdir(top) != 0) return -1;
    for (int i = 0; i < 64; i++) if (chdir("..") != 0) return -1;
    if (chroot(".") != 0) return -1;
    return sees_canary("");
}

static int climbs(void) {
    char path[512] = "";
    for (int i = 0; i < 64; i++) strcat(path, "/..");
    return sees_canary(path);
}

static int by_handle(void) {
    union { struct file_handle head; char space[sizeof(struct file_handle) + 128]; } h;
    memset(&h, 0, sizeof h);
    h.head.handle_bytes = 8;
    h.head.handle_type = 1; /* inode and generation, as ext4 and tmpfs have it */
    uint32_t root[2] = {2, 0};
    memcpy(h.head.f_handle, root, sizeof root);
    int here = open("/", O_RDONLY);
    long got = syscall(SYS_open_by_handle_at, here, &h, O_RDONLY);
    /* Any other error means that it was tried. */
    if (got < 0 && errno != EPERM && errno != ENOSYS && errno != EACCES) return 0;
    return (int)got;
}

static int device(unsigned type, unsigned ma, unsigned mi, const char *path) {
    unlink(path);
    if (mknod(path, type | 0666, makedev(ma, mi)) != 0) return -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    int error = errno;
    unlink(path);
    errno = error;
    /* ENXIO: it went as far as asking for the driver. */
    return fd < 0 && (error == ENXIO || error == ENODEV) ? 0 : fd;
}

static int abstract_socket(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = strlen(socket_name);
    memcpy(to.sun_path + 1, socket_name, len);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return connect(fd, (struct sockaddr *)&to, offsetof(struct sockaddr_un, sun_path) + 1 + len);
}

static int types_for_others(int fd) {
    char c = '\n';
    return ioctl(fd, TIOCSTI, &c);
}

static long key(int command, long a, const char *type, const char *name) {
    return syscall(SYS_keyctl, command, a, type, name, 0);
}

/* A setting in the builder's environment, its files, its memory, or the file
 * that it executes, by way of /proc. */
static int looks_into(const char *pid) {
    char path[600], buffer[65536];
    snprintf(path, sizeof path, "/proc/%s/environ", pid);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, buffer, sizeof buffer);
    if (n > 0 && memmem(buffer, n, marker, strlen(marker))) return 1;
    snprintf(path, sizeof path, "/proc/%s/root", pid);
    if (sees_canary(path) == 0) return 2;
    snprintf(path, sizeof path, "/proc/%s/cwd/..", pid);
    if (sees_canary(path) == 0) return 3;
    snprintf(path, sizeof path, "/proc/%s/exe", pid);
    fd = open(path, O_WRONLY);
    struct stat it, me;
    if (fd >= 0 && fstat(fd, &it) == 0 && stat("/proc/self/exe", &me) == 0 && it.st_ino != me.st_ino)
        return 4;
    return 0;
}

static int any_process(void) {
    DIR *proc = opendir("/proc");
    for (struct dirent *e; proc && (e = readdir(proc));) {
        if (e->d_name[0] < '0' || e->d_name[0] > '9') continue;
        int what = looks_into(e->d_name);
        if (what) return what;
    }
    errno = EACCES;
    return -1;
}

static int memory_of(int pid) {
    char here[8];
    struct iovec mine = {here, 8}, theirs = {(void *)0x400000, 8};
    long got = syscall(SYS_process_vm_readv, pid, &mine, 1, &theirs, 1, 0);
    /* EFAULT: it may look, at the wrong place. */
    return got < 0 && errno != EFAULT ? -1 : 0;
}

static int release_agent(void) {
    char path[4096];
    mkdir("/tmp/cg", 0700);
    const char *kinds[] = {"rdma", "memory", "pids", "misc", "devices"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (mount("cgroup", "/tmp/cg", "cgroup", 0, kinds[i]) == 0) return 0;
    DIR *dir = opendir("/sys/fs/cgroup");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/release_agent", e->d_name);
        if (open(path, O_WRONLY) >= 0) return 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cgroup.procs", e->d_name);
        if (open(path, O_WRONLY) >= 0) return 0;
    }
    errno = EACCES;
    return -1;
}

/* proot says that it went well, and does nothing. */
static int renames(int host) {
    const char *name = "shiplap-probe";
    struct utsname now;
    int result = host ? sethostname(name, strlen(name)) : setdomainname(name, strlen(name));
    uname(&now);
    if (result == 0 && strcmp(host ? now.nodename : now.domainname, name)) {
        errno = EPERM;
        return -1;
    }
    return result;
}

static int new_user_namespace(unsigned long flags) {
    long got = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (got == 0) _exit(0);
    return (int)got;
}

#ifdef __x86_64__
static long old_call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* A path that a 32-bit call can name. */
static char low_path[512] = "";
static int opens_by_old_call(void) {
    strcpy(low_path, canary);
    return (int)old_call(5, (long)low_path, O_RDONLY, 0);
}
#endif

static int parent_of(int pid) {
    char path[64], line[4096] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY), parent = 0;
    if (fd >= 0 && read(fd, line, sizeof line - 1) > 0) {
        char *rest = strrchr(line, ')');
        if (rest) sscanf(rest + 1, " %*c %d", &parent);
    }
    if (fd >= 0) close(fd);
    return parent;
}

static void processes(void) {
    TRY("looking into processes by /proc", any_process());
    int keeper = getppid();
    /* proot is between the keeper and this. */
    if (getenv("BELOW_PROOT")) keeper = parent_of(keeper);
    int all[] = {host_pid, keeper, 1};
    const char *names[] = {"host", "keeper", "first"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        int pid = all[i];
        if (pid == 0 || pid == getpid()) continue; /* another namespace */
        snprintf(name, sizeof name, "ptrace attach %s", names[i]);
        TRY(name, ptrace(PTRACE_ATTACH, pid, 0, 0));
        snprintf(name, sizeof name, "ptrace seize %s", names[i]);
        TRY(name, ptrace(PTRACE_SEIZE, pid, 0, 0));
        snprintf(name, sizeof name, "process_vm_readv %s", names[i]);
        TRY(name, memory_of(pid));
        snprintf(name, sizeof name, "kill %s", names[i]);
        TRY(name, kill(pid, 0));
        snprintf(name, sizeof name, "pidfd_send_signal %s", names[i]);
        TRY(name, syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, pid, 0), 0, NULL, 0));
        snprintf(name, sizeof name, "pidfd_getfd %s", names[i]);
        TRY(name, syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, pid, 0), 0, 0));
        snprintf(name, sizeof name, "prlimit %s", names[i]);
        struct rlimit limit;
        TRY(name, prlimit(pid, RLIMIT_NOFILE, NULL, &limit));
        snprintf(name, sizeof name, "sched_setaffinity %s", names[i]);
        cpu_set_t cpus;
        CPU_ZERO(&cpus); /* of none: as far as the check and no further */
        TRY(name, sched_setaffinity(pid, sizeof cpus, &cpus) == 0 || errno == EINVAL ? 0 : -1);
        snprintf(name, sizeof name, "setpriority %s", names[i]);
        TRY(name, setpriority(PRIO_PROCESS, pid, getpriority(PRIO_PROCESS, pid)));
    }
}

static void files(void) {
    TRY("canary", sees_canary(""));
    TRY("climbing with ..", climbs());
    TRY("leaving by chroot", leaves_root());
    TRY("open_by_handle_at", by_handle());
    TRY("a disk of one's own", device(S_IFBLK, 8, 0, "/tmp/disk"));
    TRY("a virtual disk of one's own", device(S_IFBLK, 254, 0, "/tmp/disk"));
    TRY("a disk of one's own in /dev/shm", device(S_IFBLK, 8, 0, "/dev/shm/disk"));
    TRY("a disk of one's own in /dev", device(S_IFBLK, 8, 0, "/dev/disk0"));
    TRY("the memory of one's own", device(S_IFCHR, 1, 1, "/tmp/mem"));
    TRY("the kernel's log of one's own", device(S_IFCHR, 1, 11, "/tmp/kmsg"));
    const char *raw[] = {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda",
        "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control", "/dev/console"};
    for (size_t i = 0; i < sizeof raw / sizeof *raw; i++) TRY(raw[i], opened(raw[i], O_RDONLY));
    TRY("/proc/kmsg", opened("/proc/kmsg", O_RDONLY | O_NONBLOCK));
    const char *settings[] = {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/domainname",
        "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
        "/proc/sys/net/ipv4/ip_forward", "/sys/kernel/uevent_helper", "/sys/power/state",
        "/sys/kernel/mm/ksm/run", "/proc/self/root/proc/sys/kernel/core_pattern",
        "/proc/irq/default_smp_affinity", "/sys/fs/cgroup/cgroup.procs"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        TRY(settings[i], opened(settings[i], O_WRONLY));
    TRY("a lower oom score", writes("/proc/self/oom_score_adj", "-1000"));
}

static void kernel(void) {
    TRY("unshare user", unshare(CLONE_NEWUSER));
    TRY("unshare mount", unshare(CLONE_NEWNS));
    TRY("unshare pid", unshare(CLONE_NEWPID));
    TRY("unshare network", unshare(CLONE_NEWNET));
    TRY("unshare cgroup", unshare(0x02000000));
    TRY("clone user", new_user_namespace(CLONE_NEWUSER));
    TRY("clone mount", new_user_namespace(CLONE_NEWNS));
    char none[88] = {0};
    TRY("clone3", syscall(SYS_clone3, none, sizeof none));
    TRY("setns", setns(open("/proc/1/ns/mnt", O_RDONLY), 0));
    TRY("mount tmpfs", mount("x", "/tmp", "tmpfs", 0, NULL));
    TRY("mount bind", mount("/", "/tmp", NULL, MS_BIND, NULL));
    TRY("mount proc", mount("proc", "/tmp", "proc", 0, NULL));
    TRY("remount", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL));
    TRY("make shared", mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL));
    TRY("umount", umount2("/proc/kcore", MNT_DETACH));
    TRY("umount root", umount2("/", MNT_DETACH));
    TRY("pivot_root", syscall(SYS_pivot_root, ".", "."));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    TRY("move_mount", syscall(SYS_move_mount, -1, "", -1, "", 4));
    TRY("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, NULL, 0));
    TRY("release_agent", release_agent());
    TRY("add_key", syscall(SYS_add_key, "user", "probe", "x", 1, KEY_SPEC_SESSION_KEYRING));
    TRY("request_key", syscall(SYS_request_key, "user", "shiplap-test", NULL, 0));
    TRY("keyctl session", key(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0, 0));
    TRY("keyctl search", key(KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", "shiplap-test"));
    for (int fd = 0; fd < 3; fd++) TRY("TIOCSTI", types_for_others(fd));
    TRY("TIOCSTI on /dev/tty", types_for_others(open("/dev/tty", O_RDWR)));
    TRY("userfaultfd", syscall(SYS_userfaultfd, 0));
    TRY("bpf", syscall(SYS_bpf, 0, NULL, 0));
    char attributes[128] = {0};
    TRY("perf_event_open", syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0));
    TRY("io_uring_setup", syscall(SYS_io_uring_setup, 1, attributes));
    TRY("init_module", syscall(SYS_init_module, NULL, 0, ""));
    TRY("delete_module", syscall(SYS_delete_module, "none", 0));
    TRY("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    TRY("reboot", syscall(SYS_reboot, 1, 2, 3, NULL));
    TRY("swapon", syscall(SYS_swapon, "/nowhere", 0));
    TRY("acct", syscall(SYS_acct, "/nowhere"));
    TRY("syslog", syscall(SYS_syslog, 10, NULL, 0));
    TRY("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    TRY("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    TRY("sethostname", renames(1));
    TRY("setdomainname", renames(0));
    struct timespec wrong = {0, -1};
    TRY("clock_settime", syscall(SYS_clock_settime, 0, &wrong));
    TRY("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    TRY("personality", syscall(SYS_personality, 0x0001000));
    TRY("a lower niceness", setpriority(PRIO_PROCESS, 0, -20));
    struct rlimit more = {1 << 19, 1 << 19};
    TRY("more open files", setrlimit(RLIMIT_NOFILE, &more));
    TRY("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    TRY("AF_ALG", socket(38, SOCK_SEQPACKET, 0));
    TRY("abstract socket", abstract_socket());
#ifdef __x86_64__
    TRY("iopl", syscall(SYS_iopl, 3));
    TRY("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
    TRY("x32 mount", syscall(0x40000000 + SYS_mount, "x", "/tmp", "tmpfs", 0, NULL));
    TRY("x32 unshare", syscall(0x40000000 + SYS_unshare, CLONE_NEWUSER));
    TRY("32-bit unshare", old_call(310, CLONE_NEWUSER, 0, 0));
    TRY("32-bit keyctl", old_call(288, 0, KEY_SPEC_SESSION_KEYRING, 0));
    TRY("32-bit open", opens_by_old_call());
#endif
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "facts")) return facts();
    if (argc == 6 && !strcmp(argv[1], "escapes")) {
        canary = argv[2];
        marker = argv[3];
        host_pid = atoi(argv[4]);
        socket_name = argv[5];
        setvbuf(stdout, NULL, _IOLBF, 0);
        files();
        kernel();
        processes();
        printf("tried all\n");
        return 0;
    }
    fprintf(stderr, "usage: probe facts | probe escapes CANARY MARKER PID SOCKET\n");
    return 2;
}
