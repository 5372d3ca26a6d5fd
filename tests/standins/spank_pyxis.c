/* A stand-in for Pyxis, NVIDIA's plugin of Slurm that runs steps in images.
 *
 * It registers the options that Pyxis documents, with their rules, says what Pyxis and Enroot say
 * when something is wrong, and runs the task in the image as they do: unpacked as the user into
 * ENROOT_DATA_PATH, entered through user and mount namespaces without any privilege, removed at
 * the end. It is written from their documentation and from observed behaviour; it shares no code
 * with them and is no replacement: nothing is imported, containers have no names, hooks, drop-ins
 * of enroot.conf and GPUs do not exist.
 *
 *   cc -shared -fPIC -o spank_pyxis.so spank_pyxis.c     (package libslurm-dev)
 *   plugstack.conf:  required /path/to/spank_pyxis.so
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(pyxis, 1)

#define MOST_MOUNTS 64

enum { IMAGE, MOUNTS, WORKDIR, NAME, SAVE, ENV, WITH_ARGUMENT };
enum { HOME = WITH_ARGUMENT, READONLY, REMAP, ENTRYPOINT, KINDS };

struct bind { char *source, *target; int read_only; };

static char *text[WITH_ARGUMENT];
static int chosen[KINDS]; /* of the pairs: 0 not given, 1 yes, -1 no */
static struct bind binds[MOST_MOUNTS];
static int bind_count;

/* SRC:DST[:FLAGS][,…], both paths absolute: what Pyxis refuses is refused before the launch. */
static int parse_mounts(const char *argument)
{
	char *rest = strdup(argument), *one;

	while ((one = strsep(&rest, ",")) != NULL) {
		char *source = strsep(&one, ":"), *target = strsep(&one, ":");

		if (target == NULL || *source != '/' || *target != '/' ||
		    bind_count == MOST_MOUNTS || (one != NULL && strchr(one, ':'))) {
			slurm_error("pyxis: Invalid --container-mounts argument: %s", argument);
			return -1;
		}
		binds[bind_count++] = (struct bind){source, target,
						    one != NULL && strncmp(one, "ro", 2) == 0};
	}
	return 0;
}

static int take_text(int which, const char *argument, int remote)
{
	(void)remote;
	if (argument == NULL || *argument == '\0') {
		slurm_error("pyxis: an option of containers needs a value");
		return -1;
	}
	if (text[which] != NULL)
		return 0; /* as an option and from the environment: the option came first */
	text[which] = strdup(argument);
	return which == MOUNTS ? parse_mounts(argument) : 0;
}

static int take_choice(int value, const char *argument, int remote)
{
	int which = abs(value), sign = value < 0 ? -1 : 1;

	(void)argument;
	(void)remote;
	if (chosen[which] == -sign) {
		slurm_error("pyxis: an option of containers and its opposite are both given");
		return -1;
	}
	chosen[which] = sign;
	return 0;
}

#define TEXT(name, argument, which) {name, argument, "[pyxis stand-in]", 1, which, take_text}
#define CHOICE(name, value) {name, NULL, "[pyxis stand-in]", 0, value, take_choice}

static struct spank_option options[] = {
	TEXT("container-image", "[USER@][REGISTRY#]IMAGE[:TAG]|PATH", IMAGE),
	TEXT("container-mounts", "SRC:DST[:FLAGS][,SRC:DST...]", MOUNTS),
	TEXT("container-workdir", "PATH", WORKDIR),
	TEXT("container-name", "NAME", NAME),
	TEXT("container-save", "PATH", SAVE),
	TEXT("container-env", "NAME[,NAME...]", ENV),
	CHOICE("container-mount-home", HOME),
	CHOICE("no-container-mount-home", -HOME),
	CHOICE("container-readonly", READONLY),
	CHOICE("container-writable", -READONLY),
	CHOICE("container-remap-root", REMAP),
	CHOICE("no-container-remap-root", -REMAP),
	CHOICE("container-entrypoint", ENTRYPOINT),
	CHOICE("no-container-entrypoint", -ENTRYPOINT),
	SPANK_OPTIONS_TABLE_END,
};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	struct spank_option *option;

	(void)ac;
	(void)av;
	for (option = options; option->name != NULL; option++)
		if (spank_option_register(sp, option) != ESPANK_SUCCESS)
			return -1;
	return 0;
}

static int failed(const char *what, const char *name)
{
	slurm_error("pyxis: %s: %s: %s", what, name, strerror(errno));
	return -1;
}

static int run(char *const argv[])
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		execvp(argv[0], argv);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* Where the task's container lies: in the job's ENROOT_DATA_PATH, or in Enroot's place in /tmp. */
static void container_path(spank_t sp, char *path, char *data)
{
	uid_t uid = 0;
	uint32_t job = 0, step = 0;
	int task = 0;

	spank_get_item(sp, S_JOB_UID, &uid);
	spank_get_item(sp, S_JOB_ID, &job);
	spank_get_item(sp, S_JOB_STEPID, &step);
	spank_get_item(sp, S_TASK_ID, &task);
	if (spank_getenv(sp, "ENROOT_DATA_PATH", data, PATH_MAX / 2) != ESPANK_SUCCESS)
		snprintf(data, PATH_MAX / 2, "/tmp/enroot-data-%u", uid);
	snprintf(path, PATH_MAX, "%s/pyxis_%u.%u.%d", data, job, step, task);
}

static int check_image(const char *image)
{
	char magic[4] = "";
	int fd;

	if (*image != '/' && strncmp(image, "./", 2) != 0) {
		slurm_spank_log("pyxis: importing docker image: %s", image);
		slurm_error("pyxis: child 1 failed with error code: 1");
		slurm_error("pyxis: failed to import docker image");
		slurm_error("pyxis:     [ERROR] Could not process JSON input");
		return -1;
	}
	fd = open(image, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		slurm_error("pyxis:     [ERROR] No such file or directory: %s", image);
		return -1;
	}
	if (read(fd, magic, sizeof magic) != sizeof magic || memcmp(magic, "hsqs", 4) != 0) {
		slurm_error("pyxis:     [ERROR] Invalid image format: %s", image);
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

static int remove_container(char *path)
{
	char *argv[] = {"rm", "-rf", "--one-file-system", path, NULL};

	return run(argv);
}

static int unpack(char *image, char *path, char *data)
{
	char *argv[] = {"unsquashfs", "-no-progress", "-quiet", "-no-xattrs", "-d", path, image, NULL};

	if (mkdir(data, 0700) < 0 && errno != EEXIST)
		return failed("cannot create", data);
	remove_container(path);
	if (run(argv) < 0) {
		slurm_error("pyxis: failed to create container filesystem");
		remove_container(path);
		return -1;
	}
	return 0;
}

static int write_file(const char *path, const char *format, ...)
{
	va_list values;
	int fd = open(path, O_WRONLY | O_CLOEXEC), written;

	if (fd < 0)
		return -1;
	va_start(values, format);
	written = vdprintf(fd, format, values);
	va_end(values);
	close(fd);
	return written < 0 ? -1 : 0;
}

static int enter_namespaces(void)
{
	unsigned uid = geteuid(), gid = getegid();

	/* A process that gave up root does not own its files in /proc until it says so. */
	prctl(PR_SET_DUMPABLE, 1);
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return failed("unshare", "user and mount namespaces");
	if (write_file("/proc/self/setgroups", "deny") < 0 ||
	    write_file("/proc/self/uid_map", "%u %u 1", chosen[REMAP] == 1 ? 0 : uid, uid) < 0 ||
	    write_file("/proc/self/gid_map", "%u %u 1", chosen[REMAP] == 1 ? 0 : gid, gid) < 0)
		return failed("write", "/proc/self/uid_map");
	return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ? failed("mount", "/") : 0;
}

static void make_place(char *path, int folder)
{
	char *slash;

	for (slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	if (folder)
		mkdir(path, 0755);
	else
		close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
}

static int bind_into(const char *root, const struct bind *one)
{
	char target[2 * PATH_MAX];
	struct stat found;

	if (stat(one->source, &found) < 0) {
		slurm_error("pyxis: --container-mounts: source path does not exist: %s", one->source);
		return -1;
	}
	snprintf(target, sizeof target, "%s%s", root, one->target);
	make_place(target, S_ISDIR(found.st_mode));
	if (mount(one->source, target, NULL, MS_BIND | MS_REC, NULL) < 0)
		return failed("mount", one->target);
	if (one->read_only && mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
		return failed("mount read-only", one->target);
	return 0;
}

static int build(char *root)
{
	static struct bind system[] = {
		{"/proc", "/proc", 0}, {"/sys", "/sys", 0}, {"/dev", "/dev", 0},
		{"/etc/hosts", "/etc/hosts", 1}, {"/etc/resolv.conf", "/etc/resolv.conf", 1},
	};
	char tmp[PATH_MAX + 8];
	size_t n;
	int i;

	if (mount(root, root, NULL, MS_BIND | MS_REC, NULL) < 0)
		return failed("mount", root);
	for (n = 0; n < sizeof system / sizeof *system; n++)
		if (access(system[n].source, F_OK) == 0 && bind_into(root, &system[n]) < 0)
			return -1;
	snprintf(tmp, sizeof tmp, "%s/tmp", root);
	make_place(tmp, 1);
	if (mount("tmpfs", tmp, "tmpfs", 0, "mode=1777") < 0)
		return failed("mount", "/tmp");
	if (chosen[HOME] == 1 && getenv("HOME") != NULL) {
		struct bind home = {getenv("HOME"), getenv("HOME"), 0};

		if (bind_into(root, &home) < 0)
			return -1;
	}
	for (i = 0; i < bind_count; i++)
		if (bind_into(root, &binds[i]) < 0)
			return -1;
	if (chosen[READONLY] == 1 &&
	    mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
		return failed("mount read-only", root);
	return 0;
}

/* The image's variables go over the job's, as Enroot's /etc/environment does. */
static void import_environment(spank_t sp)
{
	char line[4096], *equals;
	FILE *file = fopen("/etc/environment", "re");

	while (file != NULL && fgets(line, sizeof line, file) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		equals = strchr(line, '=');
		if (equals == NULL || *line == '#')
			continue;
		*equals = '\0';
		spank_setenv(sp, line, equals + 1, 1);
	}
	if (file != NULL)
		fclose(file);
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	char path[PATH_MAX], data[PATH_MAX / 2];
	const char *workdir = text[WORKDIR] != NULL ? text[WORKDIR] : "/";

	(void)ac;
	(void)av;
	/* Without an image the other options are ignored, and the task runs on the host. */
	if (spank_context() != S_CTX_REMOTE || text[IMAGE] == NULL)
		return 0;
	container_path(sp, path, data);
	if (check_image(text[IMAGE]) < 0 || unpack(text[IMAGE], path, data) < 0)
		return -1;
	if (enter_namespaces() < 0 || build(path) < 0)
		return -1;
	if (chdir(path) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0)
		return failed("pivot_root", path);
	if (chdir(workdir) < 0) {
		slurm_error("pyxis: couldn't chdir to %s: %s", workdir, strerror(errno));
		return -1;
	}
	import_environment(sp);
	return 0;
}

int slurm_spank_task_exit(spank_t sp, int ac, char **av)
{
	char path[PATH_MAX], data[PATH_MAX / 2];
	pid_t child;
	uid_t uid = 0;

	(void)ac;
	(void)av;
	if (spank_context() != S_CTX_REMOTE || text[IMAGE] == NULL)
		return 0;
	container_path(sp, path, data);
	spank_get_item(sp, S_JOB_UID, &uid);
	child = fork();
	if (child == 0)
		_exit(setresuid(uid, uid, uid) == 0 ? -remove_container(path) : 1);
	if (child > 0)
		waitpid(child, NULL, 0);
	return 0;
}
