/* A driver that answers what a script says: a library in the place of libnvidia-ml.so.1.

   FAKE_NVML names the script; it is read again for every question. A line is one answer: who, what, and values.

       driver Version 580.95
       driver Count 2
       driver Events 0 79             card 0 reports XID 79; more pairs are added as they happen
       0 UUID GPU-a                   nvmlDeviceGetUUID of card 0
       0 TemperatureThreshold.1 87    an argument is part of what is asked
       0 NvLinkState 1 1 0            a value per link
       0 PowerUsage !15               the error NVML_ERROR_GPU_IS_LOST
       0.2 UUID MIG-b                 the third MIG device of card 0
       driver Init !9                 NVML_ERROR_DRIVER_NOT_LOADED

   What has no line is not supported. Nothing is answered outside of nvmlInit and nvmlShutdown. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, UNINITIALIZED, INVALID, NOT_SUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10 };
enum { CARDS = 8, PARTS = 8, VALUES = 64, LINE = 1024, DRIVER = -1 };

typedef unsigned long long Long;
typedef struct { int card, part; } Place; /* part 0: the card itself */
typedef Place *Device;
typedef struct { int heard[CARDS], wanted[CARDS]; } EventSet;
typedef struct { Long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned pid; Long memory; unsigned instance, compute; } Process;
typedef struct { Device device; Long type, data; unsigned instance, compute; } Event;
typedef struct { unsigned id, scope; Long time, latency; int type, result; union { unsigned number; Long all; } value; } Field;

static const Place driver = {DRIVER, 0};
static Place places[CARDS][1 + PARTS];
static int users;

/* The rest of the line that answers a question, without its end. */
static int text(const Place *who, const char *what, char *answer) {
    char line[LINE], start[LINE];
    if (!users) return UNINITIALIZED;
    if (who->card == DRIVER) snprintf(start, LINE, "driver %s ", what);
    else if (who->part) snprintf(start, LINE, "%d.%d %s ", who->card, who->part - 1, what);
    else snprintf(start, LINE, "%d %s ", who->card, what);
    FILE *script = fopen(getenv("FAKE_NVML"), "r");
    if (!script) abort();
    int result = NOT_SUPPORTED;
    while (fgets(line, LINE, script)) {
        if (strncmp(line, start, strlen(start))) continue;
        line[strcspn(line, "\n")] = 0;
        strcpy(answer, line + strlen(start));
        result = *answer == '!' ? atoi(answer + 1) : OK;
    }
    fclose(script);
    return result;
}

/* All values of an answer; how many there are. */
static int values(const Place *who, const char *what, Long *found, int *count) {
    char answer[LINE], *rest = answer;
    int result = text(who, what, answer);
    for (*count = 0; result == OK && *count < VALUES; ++*count) {
        char *end;
        found[*count] = strtoull(rest, &end, 0);
        if (end == rest) break;
        rest = end;
    }
    return result;
}

/* One number; what is asked may have an argument, else -1. */
static int number(const Place *who, const char *what, int argument, unsigned *found) {
    char asked[LINE];
    Long all[VALUES] = {0};
    int count;
    snprintf(asked, LINE, argument < 0 ? "%s" : "%s.%d", what, argument);
    int result = values(who, asked, all, &count);
    *found = (unsigned)all[0];
    return result;
}

/* Whether something may be done: yes, unless the script has an error there. */
static int permitted(const Place *who, const char *what) {
    char answer[LINE] = "";
    int result = text(who, what, answer);
    return result == NOT_SUPPORTED && !*answer ? OK : result;
}

/* ---- the library ---- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    users++;
    int result = permitted(&driver, "Init");
    if (result != OK) users--;
    return result;
}

int nvmlShutdown(void) { return users ? users--, OK : UNINITIALIZED; }

const char *nvmlErrorString(int result) {
    static char told[LINE];
    snprintf(told, LINE, "error %d", result);
    return told;
}

int nvmlSystemGetDriverVersion(char *found, unsigned size) {
    (void)size;
    return text(&driver, "Version", found);
}

int nvmlDeviceGetCount_v2(unsigned *found) { return number(&driver, "Count", -1, found); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *found) {
    if (index >= CARDS) return INVALID;
    *found = &places[index][0];
    **found = (Place){(int)index, 0};
    return permitted(*found, "Handle");
}

#define TEXT(what) int nvmlDeviceGet##what(Device d, char *found, unsigned size) { (void)size; return text(d, #what, found); }
#define NUMBER(what) int nvmlDeviceGet##what(Device d, unsigned *found) { return number(d, #what, -1, found); }
#define OF_KIND(what) int nvmlDeviceGet##what(Device d, int kind, unsigned *found) { return number(d, #what, kind, found); }

TEXT(UUID)
TEXT(Name)
NUMBER(PowerUsage)
NUMBER(EnforcedPowerLimit)
NUMBER(MaxMigDeviceCount)
OF_KIND(Temperature)
OF_KIND(TemperatureThreshold)

/* Several numbers behind pointers: ASK reads them, what follows hands them on. */
#define ASK(what) Long all[VALUES] = {0}; int count, result = values(d, what, all, &count)

int nvmlDeviceGetMemoryInfo(Device d, Memory *found) {
    ASK("MemoryInfo");
    *found = (Memory){all[0], all[0] - all[1], all[1]};
    return result;
}

int nvmlDeviceGetUtilizationRates(Device d, Rates *found) {
    ASK("UtilizationRates");
    *found = (Rates){(unsigned)all[0], (unsigned)all[1]};
    return result;
}

int nvmlDeviceGetCudaComputeCapability(Device d, int *major, int *minor) {
    ASK("CudaComputeCapability");
    *major = (int)all[0], *minor = (int)all[1];
    return result;
}

int nvmlDeviceGetMigMode(Device d, unsigned *now, unsigned *later) {
    ASK("MigMode");
    *now = (unsigned)all[0], *later = (unsigned)all[1];
    return result;
}

int nvmlDeviceGetRemappedRows(Device d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    ASK("RemappedRows");
    *corrected = (unsigned)all[0], *uncorrected = (unsigned)all[1], *pending = (unsigned)all[2], *failed = (unsigned)all[3];
    return result;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device d, Long *found) {
    ASK("CurrentClocksEventReasons");
    *found = all[0];
    return result;
}

int nvmlDeviceGetTotalEccErrors(Device d, int type, int counter, Long *found) {
    char asked[LINE];
    snprintf(asked, LINE, "TotalEccErrors.%d.%d", type, counter);
    ASK(asked);
    *found = all[0];
    return result;
}

int nvmlDeviceGetNvLinkState(Device d, unsigned link, unsigned *found) {
    ASK("NvLinkState");
    *found = (unsigned)all[link % VALUES];
    return result == OK && (int)link >= count ? INVALID : result;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device d, unsigned index, Device *found) {
    char unused[LINE];
    if (index >= PARTS) return INVALID;
    *found = &places[d->card][1 + index];
    **found = (Place){d->card, 1 + (int)index};
    return text(*found, "UUID", unused) == OK ? OK : NOT_FOUND;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned *size, Process *found) {
    ASK("ComputeRunningProcesses"); /* pairs: pid, bytes or -1 for those that are not told */
    int fits = (int)*size * 2 >= count;
    for (int i = 0; fits && i < count / 2; i++) found[i] = (Process){(unsigned)all[2 * i], all[2 * i + 1], 0, 0};
    *size = (unsigned)count / 2;
    return result == OK && !fits ? TOO_SMALL : result;
}

int nvmlDeviceGetFieldValues(Device d, int size, Field *fields) {
    for (int i = 0; i < size; i++) {
        fields[i].value.all = 0;
        fields[i].result = number(d, "Field", (int)fields[i].id, &fields[i].value.number);
    }
    return users ? OK : UNINITIALIZED;
}

int nvmlEventSetCreate(EventSet **found) {
    *found = calloc(1, sizeof **found);
    return permitted(&driver, "EventSet");
}

int nvmlEventSetFree(EventSet *set) {
    free(set);
    return users ? OK : UNINITIALIZED;
}

int nvmlEventSetWait_v2(EventSet *set, Event *found, unsigned milliseconds) {
    const Place *d = &driver;
    ASK("Events"); /* pairs: card, XID */
    (void)milliseconds;
    int seen[CARDS] = {0};
    for (int i = 0; result == OK && i < count / 2; i++) {
        int card = (int)all[2 * i] % CARDS;
        if (!set->wanted[card] || seen[card]++ < set->heard[card]) continue;
        set->heard[card]++;
        *found = (Event){&places[card][0], 8, all[2 * i + 1], 0, 0};
        return OK;
    }
    return result == OK || result == NOT_SUPPORTED ? TIMEOUT : result;
}

int nvmlDeviceRegisterEvents(Device d, Long types, EventSet *set) {
    Event earlier;
    (void)types;
    set->wanted[d->card] = 1;
    while (nvmlEventSetWait_v2(set, &earlier, 0) == OK) {} /* nobody is told what happened before */
    return permitted(d, "RegisterEvents");
}
