/* A libnvidia-ml.so.1 whose GPUs live in a shared file, so that the true energy is known and time is virtual.
 *
 * The real nvidia-ml-py binds to it. The state (struct fake_nvml) is a file mapped into memory, named by the environment
 * variable FAKE_NVML_STATE; tests/fake_nvml_library.py has the same layout in ctypes, writes scenarios and moves the
 * clock. Signatures, structures and error numbers are those of NVML's API reference and of pynvml.py (nvidia-ml-py 13).
 * -DNO_COUNTER leaves the energy counter out, as a library from before Volta.
 */
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { FIELD_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { MAX_DEVICES = 4, MAX_INSTANCES = 4, MAX_PROCESSES = 4, NUM_CALLS = 10, UUID_BYTES = 96 };
enum call { ENERGY, POWER_INSTANT, POWER_AVERAGE, LIMIT, TEMPERATURE, CLOCK, PSTATE, THROTTLE, PROCESSES, MIG };

/* A call returns `code` while from_s <= now < to_s. */
struct fault { int64_t code; double from_s, to_s; };

struct instance { char uuid[UUID_BYTES]; };

struct device {
    char uuid[UUID_BYTES];
    char name[UUID_BYTES];
    double idle_w, load_w, load_from_s;   /* the true power: idle_w before load_from_s, load_w after */
    double tick_s, phase_s;               /* the counter is updated at phase_s + k * tick_s */
    double offset_mj;                     /* what the counter held at time 0 */
    double frozen_from_s, reset_s;        /* no update after; starts again from 0 */
    double counter_factor, sensor_factor; /* what counter and power sensor say, over the truth */
    double sensor_tick_s;                 /* the power sensor is updated this often */
    double limit_w, temperature_c, sm_clock_mhz, pstate;
    int64_t throttle_mask;
    int64_t num_processes, pids[MAX_PROCESSES];
    int64_t has_mig, num_instances;
    struct instance instances[MAX_INSTANCES];
    struct fault faults[NUM_CALLS];
    int64_t num_reads[NUM_CALLS];
};

struct fake_nvml { double now_s; int64_t num_devices; struct device devices[MAX_DEVICES]; };

static struct fake_nvml *state;
static int users;

int64_t fakeNvmlStateBytes(void) { return (int64_t)sizeof(struct fake_nvml); }

int nvmlInitWithFlags(unsigned flags)
{
    const char *path = getenv("FAKE_NVML_STATE");
    (void)flags;
    if (users++ > 0) return SUCCESS;
    int file = path ? open(path, O_RDWR) : -1;
    void *mapped = file < 0 ? MAP_FAILED
                            : mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (mapped == MAP_FAILED) { users = 0; return 9; /* DRIVER_NOT_LOADED */ }
    state = mapped;
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void)
{
    if (users == 0) return UNINITIALIZED;
    if (--users == 0) { munmap(state, sizeof *state); state = NULL; }
    return SUCCESS;
}

const char *nvmlErrorString(int code)
{
    switch (code) {
    case SUCCESS: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}

static int text(char *out, unsigned length, const char *value)
{
    if (strlen(value) + 1 > length) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *out, unsigned length) { return text(out, length, "999.00 fake-nvml"); }

int nvmlDeviceGetCount_v2(unsigned *count)
{
    if (!state) return UNINITIALIZED;
    *count = (unsigned)state->num_devices;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    if (!state) return UNINITIALIZED;
    if (index >= state->num_devices) return INVALID_ARGUMENT;
    *device = &state->devices[index];
    return SUCCESS;
}

/* The board that a handle (of a board or of an instance) lies in. */
static struct device *owner(void *handle)
{
    for (int i = 0; state && i < state->num_devices; i++)
        if (handle >= (void *)&state->devices[i] && handle < (void *)&state->devices[i + 1]) return &state->devices[i];
    return NULL;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
    for (int i = 0; state && i < state->num_devices; i++) {
        struct device *found = &state->devices[i];
        if (!strcmp(found->uuid, uuid)) { *device = found; return SUCCESS; }
        for (int k = 0; k < found->num_instances; k++)
            if (!strcmp(found->instances[k].uuid, uuid)) { *device = &found->instances[k]; return SUCCESS; }
    }
    return state ? NOT_FOUND : UNINITIALIZED;
}

/* Boards and instances both begin with their UUID. */
int nvmlDeviceGetUUID(void *handle, char *out, unsigned length) { return text(out, length, (const char *)handle); }

int nvmlDeviceGetName(struct device *device, char *out, unsigned length) { return text(out, length, device->name); }

/* Every reading passes here: counts it, and returns the fault that is on now. Instances have no sensors. */
static int asked(struct device *device, enum call call)
{
    if (!state) return UNINITIALIZED;
    if (owner(device) != device) return NOT_SUPPORTED;
    const struct fault *fault = &device->faults[call];
    __atomic_add_fetch(&device->num_reads[call], 1, __ATOMIC_RELAXED);
    return fault->from_s <= state->now_s && state->now_s < fault->to_s ? (int)fault->code : SUCCESS;
}

static double true_energy_j(const struct device *device, double time_s)
{
    return device->idle_w * fmin(time_s, device->load_from_s) + device->load_w * fmax(0, time_s - device->load_from_s);
}

static double true_power_w(const struct device *device, double time_s)
{
    return time_s < device->load_from_s ? device->idle_w : device->load_w;
}

static double last_update_s(double time_s, double tick_s, double phase_s)
{
    return phase_s + floor((time_s - phase_s) / tick_s) * tick_s;
}

static uint64_t counter_mj(const struct device *device)
{
    double updated_s = last_update_s(fmin(state->now_s, device->frozen_from_s), device->tick_s, device->phase_s);
    double counted_mj = 1e3 * device->counter_factor * true_energy_j(device, updated_s) + device->offset_mj;
    if (state->now_s >= device->reset_s)
        counted_mj = 1e3 * device->counter_factor
                     * fmax(0, true_energy_j(device, updated_s) - true_energy_j(device, device->reset_s));
    return (uint64_t)counted_mj;
}

static unsigned instant_mw(const struct device *device)
{
    double updated_s = last_update_s(state->now_s, device->sensor_tick_s, 0);
    return (unsigned)lround(1e3 * device->sensor_factor * true_power_w(device, updated_s));
}

static unsigned average_mw(const struct device *device)
{
    double last_second_j = true_energy_j(device, state->now_s) - true_energy_j(device, state->now_s - 1);
    return (unsigned)lround(1e3 * device->sensor_factor * last_second_j);
}

#ifndef NO_COUNTER
int nvmlDeviceGetTotalEnergyConsumption(struct device *device, unsigned long long *energy_mj)
{
    int code = asked(device, ENERGY);
    if (code == SUCCESS) *energy_mj = counter_mj(device);
    return code;
}
#endif

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *power_mw)
{
    int code = asked(device, POWER_AVERAGE);
    if (code == SUCCESS) *power_mw = average_mw(device);
    return code;
}

union value { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; };

struct field_value {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int type, code;
    union value value;
};

int nvmlDeviceGetFieldValues(struct device *device, int count, struct field_value *values)
{
    if (!state) return UNINITIALIZED;
    for (int i = 0; i < count; i++) {
        struct field_value *asked_for = &values[i];
        asked_for->type = TYPE_UNSIGNED_INT;
        if (asked_for->field == FIELD_POWER_INSTANT) {
            asked_for->code = asked(device, POWER_INSTANT);
            asked_for->value.ui = instant_mw(device);
        } else if (asked_for->field == FIELD_POWER_AVERAGE) {
            asked_for->code = asked(device, POWER_AVERAGE);
            asked_for->value.ui = average_mw(device);
        } else if (asked_for->field == FIELD_ENERGY) {
            asked_for->code = asked(device, ENERGY);
            asked_for->type = TYPE_UNSIGNED_LONG_LONG;
            asked_for->value.ull = counter_mj(device);
        } else {
            asked_for->code = NOT_SUPPORTED;
        }
    }
    return SUCCESS;
}

static int number(struct device *device, enum call call, double value, unsigned *out)
{
    int code = asked(device, call);
    if (code == SUCCESS) *out = (unsigned)lround(value);
    return code;
}

int nvmlDeviceGetEnforcedPowerLimit(struct device *device, unsigned *limit_mw)
{
    return number(device, LIMIT, 1e3 * device->limit_w, limit_mw);
}

int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *temperature_c)
{
    return sensor ? INVALID_ARGUMENT : number(device, TEMPERATURE, device->temperature_c, temperature_c);
}

int nvmlDeviceGetClockInfo(struct device *device, int type, unsigned *clock_mhz)
{
    return type != 1 ? INVALID_ARGUMENT : number(device, CLOCK, device->sm_clock_mhz, clock_mhz);
}

int nvmlDeviceGetPerformanceState(struct device *device, unsigned *pstate)
{
    return number(device, PSTATE, device->pstate, pstate);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(struct device *device, unsigned long long *mask)
{
    int code = asked(device, THROTTLE);
    if (code == SUCCESS) *mask = (unsigned long long)device->throttle_mask;
    return code;
}

int nvmlDeviceGetCurrentClocksEventReasons(struct device *device, unsigned long long *mask)
{
    return nvmlDeviceGetCurrentClocksThrottleReasons(device, mask);
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(struct device *device, struct utilization *rates)
{
    rates->gpu = state->now_s >= device->load_from_s ? 100 : 0;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetArchitecture(struct device *device, unsigned *architecture)
{
    (void)device;
    *architecture = 9; /* Hopper */
    return SUCCESS;
}

struct process { unsigned pid; unsigned long long used_bytes; unsigned gpu_instance, compute_instance; };

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count, struct process *processes)
{
    int code = asked(device, PROCESSES);
    if (code != SUCCESS) return code;
    unsigned room = *count;
    *count = (unsigned)device->num_processes;
    if (*count > room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *count; i++) processes[i] = (struct process){(unsigned)device->pids[i], 1 << 30, 0, 0};
    return SUCCESS;
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending)
{
    int code = asked(device, MIG);
    if (code == SUCCESS) *current = *pending = (unsigned)device->has_mig;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count)
{
    *count = device->has_mig ? MAX_INSTANCES : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, void **instance)
{
    if (index >= device->num_instances) return NOT_FOUND;
    *instance = &device->instances[index];
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *instance, void **device)
{
    *device = owner(instance);
    return *device ? SUCCESS : NOT_FOUND;
}
