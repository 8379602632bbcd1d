/* Links the static library of this folder into a C program, runs its agents on a stack that is
   painted before, and prints what memory they take. Exits with 0 if all bytes came back. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct pilot_bare_report {
    uint32_t node, driver, directory, registry, tunnel, transport, links, pool;
    uint32_t handshake_ms, echoed, echo_ms, datagrams, parked;
};

uint32_t pilot_bare_run(struct pilot_bare_report *report);

enum { STACK = 1 << 20, PAINT = 0xA5 };
static unsigned char stack[STACK] __attribute__((aligned(65536)));

static struct pilot_bare_report r;
static uint32_t outcome;

static void *run(void *unused) {
    (void)unused;
    outcome = pilot_bare_run(&r);
    return NULL;
}

/* Bytes of the stack that were touched; the C library's own share of a thread is in there. */
static uint32_t run_on_painted_stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    memset(stack, PAINT, STACK);
    if (pthread_attr_init(&attributes) != 0 ||
        pthread_attr_setstack(&attributes, stack, STACK) != 0 ||
        pthread_create(&thread, &attributes, run, NULL) != 0 ||
        pthread_join(thread, NULL) != 0) {
        outcome = UINT32_MAX;
        return 0;
    }
    uint32_t untouched = 0;
    while (untouched < STACK && stack[untouched] == PAINT) {
        untouched++;
    }
    return STACK - untouched;
}

static uint32_t row(const char *what, uint32_t bytes) {
    printf("  %7u  %s\n", (unsigned)bytes, what);
    return bytes;
}

int main(void) {
    uint32_t touched = run_on_painted_stack();
    if (outcome != 0) {
        fprintf(stderr, "error: the agents ended with outcome %u\n", (unsigned)outcome);
        return 1;
    }
    printf("an agent without operating system or allocator, in bytes:\n");
    uint32_t sum = 0;
    sum += row("node", r.node);
    sum += row("driver and its two datagram buffers", r.driver);
    sum += row("directory: registry, beacon, trust", r.directory);
    sum += row("buffers of the registry connection", r.registry);
    sum += row("tunnel: sessions, replay windows", r.tunnel);
    sum += row("transport: 2 streams, 48 frames in flight, paths", r.transport);
    sum += row("paths to peers", r.links);
    sum += row("stream data", r.pool);
    row("in all", sum);
    row("and the deepest stack, start included", touched);
    printf("handshake %u ms, %u bytes there and back %u ms (virtual), %u datagrams, %u parked\n",
           (unsigned)r.handshake_ms, (unsigned)r.echoed, (unsigned)r.echo_ms,
           (unsigned)r.datagrams, (unsigned)r.parked);
    return r.echoed > 0 && r.datagrams == 2 ? 0 : 1;
}
