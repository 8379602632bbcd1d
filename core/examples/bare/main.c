/* Links the static library of this folder into a C program and prints what its agents say.
   Exits with 0 if all bytes came back. */
#include <stdint.h>
#include <stdio.h>

struct pilot_bare_report {
    uint32_t node, driver, directory, registry, tunnel, transport, links, pool;
    uint32_t handshake_ms, echoed, echo_ms, datagrams, parked;
};

uint32_t pilot_bare_run(struct pilot_bare_report *report);

static uint32_t row(const char *what, uint32_t bytes) {
    printf("  %7u  %s\n", (unsigned)bytes, what);
    return bytes;
}

int main(void) {
    struct pilot_bare_report r = {0};
    uint32_t outcome = pilot_bare_run(&r);
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
    printf("handshake %u ms, %u bytes there and back %u ms (virtual), %u datagrams, %u parked\n",
           (unsigned)r.handshake_ms, (unsigned)r.echoed, (unsigned)r.echo_ms,
           (unsigned)r.datagrams, (unsigned)r.parked);
    return r.echoed > 0 && r.datagrams == 2 ? 0 : 1;
}
