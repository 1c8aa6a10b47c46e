/*
 * The load: one thread, epoll, Linux. It opens connections, sends the request head on each, waits for the
 * head of the answer, prints "ready", and on "go" plays ping-pong; what it did is one line of JSON.
 *
 *   load PORT key=value...
 *     conns=64    connections                        request=FILE  sent first on each; its answer ends with an empty line
 *     depth=1     messages under way on each          payload=FILE  one message
 *     reply=N     bytes of the answer to a message    chunked=1     the answers are chunks of HTTP/1.1, reply counts what is in them
 *     ms=1000     how long                            mode=stream   as above
 *                                                     mode=accept   connect, request, one message, close, and again
 *     sleep=1     does not poll                       mode=get      connect, request, read to the end, close, and again
 *     greeting=N  bytes of the server behind its head, before the first message
 *     then=FILE   sent when after=N of these have come
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_SIZE (256 * 1024)
#define RAMP 128
#define BUCKETS (64 * 32)

enum { CLOSED, CONNECTING, HANDSHAKE, OPEN };
enum mode { STREAM, ACCEPT, GET };

struct conn {
  int fd, state, ends, polled, head, told;
  uint64_t greeted, sent, got, done, since;
  int chunk_state;
  uint64_t chunk_left;
};

static struct conn *conns;
static int count = 64, depth = 1, port, epoll, active, running, upcoming;
static int source, asked, sleeping;
static enum mode mode = STREAM;
static int chunked;
static uint64_t reply, greeting, after, duration = 1000, deadline;
static char *request = "", *payload = "", *then = "";
static size_t request_size, payload_size, then_size;
static uint64_t operations, failures, bytes, histogram[BUCKETS];
static char buffer[READ_SIZE];

static uint64_t now (void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t cpu (void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (uint64_t)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000u + (uint64_t)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void die (const char *what) {
  perror(what);
  exit(1);
}

static char *slurp (const char *name, size_t *size) {
  FILE *file = fopen(name, "rb");
  if (!file) die(name);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *text = malloc(*size + 1);
  if (fread(text, 1, *size, file) != *size) die(name);
  fclose(file);
  return text;
}

/* 32 buckets for each power of two: about 3 % of resolution. */
static int bucket (uint64_t value) {
  if (value < 32) return (int)value;
  int shift = 58 - __builtin_clzll(value);
  int at = (shift + 1) * 32 + (int)((value >> shift) & 31);
  return at < BUCKETS ? at : BUCKETS - 1;
}

static double percentile (double share) {
  uint64_t all = 0, seen = 0;
  for (int i = 0; i < BUCKETS; i++) all += histogram[i];
  for (int i = 0; i < BUCKETS; i++) {
    seen += histogram[i];
    if (all && (double)seen >= share * (double)all) {
      if (i < 32) return i / 1000.0;
      return (double)((uint64_t)(32 + i % 32) << (i / 32 - 1)) / 1000.0;
    }
  }
  return 0;
}

static void record (struct conn *c, uint64_t at) {
  operations++;
  histogram[bucket(at - c->since)]++;
}

static void poll_for (struct conn *c, int events) {
  if (c->polled == events) return;
  struct epoll_event e = { .events = (uint32_t)events, .data.ptr = c };
  epoll_ctl(epoll, c->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e);
  c->polled = events;
}

static void dial (struct conn *c) {
  memset(c, 0, sizeof *c);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("socket");
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  /* Ports of closed connections wait for a minute: many addresses have many ports. */
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002u + (uint32_t)(source++ % 200)) };
  if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind");
  struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  c->since = now();
  c->state = CONNECTING;
  active++;
  upcoming++;
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) die("connect");
  poll_for(c, EPOLLOUT);
}

static void drop (struct conn *c) {
  close(c->fd);
  if (c->state == CONNECTING || c->state == HANDSHAKE) upcoming--;
  c->state = CLOSED;
  active--;
}

static void put (struct conn *c) {
  uint64_t allowed = (c->done + (uint64_t)depth) * payload_size;
  while (c->sent < allowed) {
    size_t at = c->sent % payload_size, most = payload_size - at;
    ssize_t n = send(c->fd, payload + at, most, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EAGAIN) { poll_for(c, EPOLLIN | EPOLLOUT); return; }
      failures++;
      return;
    }
    c->sent += (uint64_t)n;
  }
  poll_for(c, EPOLLIN);
}

/* How many of these bytes are inside of chunks. */
static uint64_t decode (struct conn *c, const char *at, size_t size) {
  uint64_t inside = 0;
  for (const char *end = at + size; at < end;) {
    switch (c->chunk_state) {
      case 0: {
        char d = *at++;
        if (d == '\n') c->chunk_state = c->chunk_left ? 1 : 3;
        else if (d != '\r') c->chunk_left = c->chunk_left * 16 + (uint64_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
        break;
      }
      case 1: {
        uint64_t n = (uint64_t)(end - at) < c->chunk_left ? (uint64_t)(end - at) : c->chunk_left;
        at += n;
        inside += n;
        if (!(c->chunk_left -= n)) c->chunk_state = 2;
        break;
      }
      case 2: if (*at++ == '\n') c->chunk_state = 0; break;
      default: return inside;
    }
  }
  return inside;
}

static void again (struct conn *c) {
  drop(c);
  if (running && now() < deadline) dial(c);
}

static void opened (struct conn *c) {
  upcoming--;
  c->state = OPEN;
  poll_for(c, EPOLLIN);
  if (mode == ACCEPT) put(c);
}

static void take (struct conn *c, const char *at, size_t size) {
  uint64_t n = chunked ? decode(c, at, size) : size;
  c->got += n;
  bytes += n;
  while (c->got >= (c->done + 1) * reply) {
    uint64_t moment = now();
    c->done++;
    if (!running) continue;
    record(c, moment);
    if (mode == ACCEPT) { again(c); return; }
    c->since = moment;
  }
  if (running && mode == STREAM && now() < deadline) put(c);
}

static void readable (struct conn *c) {
  ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    if (mode == GET && n == 0 && c->got > 0) record(c, now());
    else if (running) failures++;
    if (mode == STREAM) { if (c->state != OPEN) die("refused"); drop(c); } else again(c);
    return;
  }
  if (c->state == OPEN) { take(c, buffer, (size_t)n); return; }
  if (mode == GET) { c->got += (uint64_t)n; return; }
  size_t size = (size_t)n, start = 0;
  if (!c->head) {
    /* The head of the answer; that it ends in the middle of a segment does not happen here. */
    char *end = memmem(buffer, size, "\r\n\r\n", 4);
    if (!end || (memcmp(buffer + 9, "101", 3) && memcmp(buffer + 9, "200", 3))) {
      fprintf(stderr, "%.*s\n", (int)n, buffer);
      exit(1);
    }
    c->head = 1;
    start = (size_t)(end - buffer) + 4;
  }
  uint64_t missing = greeting - c->greeted, more = size - start < missing ? size - start : missing;
  c->greeted += more;
  start += more;
  if (c->greeted >= after && then_size && !c->told) {
    if (send(c->fd, then, then_size, MSG_NOSIGNAL) != (ssize_t)then_size) die("send");
    c->told = 1;
  }
  if (c->greeted < greeting) return;
  opened(c);
  if (size > start) take(c, buffer + start, size - start);
}

static void writable (struct conn *c) {
  if (c->state == OPEN) { put(c); return; }
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) { errno = error; die("connect"); }
  if (!request_size) { opened(c); return; }
  if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) die("send");
  c->state = HANDSHAKE;
  poll_for(c, EPOLLIN);
}

/* Returns how much has happened. */
static int turn (int timeout) {
  struct epoll_event events[256];
  int n = epoll_wait(epoll, events, 256, timeout);
  for (int i = 0; i < n; i++) {
    struct conn *c = events[i].data.ptr;
    if (!c) { asked = 1; continue; }
    if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->state != CONNECTING) readable(c);
    else if (events[i].events & (EPOLLOUT | EPOLLERR)) writable(c);
  }
  return n;
}

/* For about a microsecond, and so that the other thread of the same core has most of it. */
static void rest (void) {
  for (int i = 0; i < 25; i++) {
#if defined __x86_64__
    __builtin_ia32_pause();
#elif defined __aarch64__
    __asm__ volatile ("yield");
#endif
  }
}

static void ramp (void) {
  for (int next = 0; next < count || upcoming;) {
    while (next < count && upcoming < RAMP) dial(&conns[next++]);
    turn(100);
  }
}

/*
 * While it measures, it polls and does not sleep: to wake a sleeper is most of what the kernel does for a small write, and it
 * charges that to the server. The slower one, whose load sleeps more often, would pay for more of it. Not where a third process
 * wants the core.
 */
static void measure (void) {
  uint64_t before = cpu(), start = now(), idle = 0;
  operations = failures = bytes = 0;
  memset(histogram, 0, sizeof histogram);
  running = 1;
  deadline = start + duration * 1000000u;
  for (int i = 0; i < count; i++) {
    if (mode != STREAM) { dial(&conns[i]); continue; }
    conns[i].since = now();
    put(&conns[i]);
  }
  for (uint64_t since = start; since < deadline && active;) {
    int found = turn(sleeping ? 20 : 0);
    if (!found && !sleeping) rest();
    uint64_t moment = now();
    if (!found) idle += moment - since;
    since = moment;
  }
  uint64_t end = now(), used = cpu() - before;
  if (!sleeping) used -= idle / 1000 < used ? idle / 1000 : used;
  printf("{\"operations\":%llu,\"bytes\":%llu,\"failures\":%llu,\"seconds\":%.6f,\"cpu\":%llu,\"p50\":%.2f,\"p99\":%.2f}\n",
    (unsigned long long)operations, (unsigned long long)bytes, (unsigned long long)failures, (double)(end - start) / 1e9,
    (unsigned long long)used, percentile(0.5), percentile(0.99));
  fflush(stdout);
}

int main (int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN);
  port = atoi(argv[1]);
  for (int i = 2; i < argc; i++) {
    char *value = strchr(argv[i], '=') + 1;
    if (!strncmp(argv[i], "conns=", 6)) count = atoi(value);
    else if (!strncmp(argv[i], "depth=", 6)) depth = atoi(value);
    else if (!strncmp(argv[i], "reply=", 6)) reply = strtoull(value, NULL, 10);
    else if (!strncmp(argv[i], "greeting=", 9)) greeting = strtoull(value, NULL, 10);
    else if (!strncmp(argv[i], "after=", 6)) after = strtoull(value, NULL, 10);
    else if (!strncmp(argv[i], "then=", 5)) then = slurp(value, &then_size);
    else if (!strncmp(argv[i], "ms=", 3)) duration = strtoull(value, NULL, 10);
    else if (!strncmp(argv[i], "chunked=", 8)) chunked = atoi(value);
    else if (!strncmp(argv[i], "sleep=", 6)) sleeping = atoi(value);
    else if (!strncmp(argv[i], "mode=", 5)) mode = *value == 'a' ? ACCEPT : *value == 'g' ? GET : STREAM;
    else if (!strncmp(argv[i], "request=", 8)) request = slurp(value, &request_size);
    else if (!strncmp(argv[i], "payload=", 8)) payload = slurp(value, &payload_size);
  }
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  conns = calloc((size_t)count, sizeof *conns);
  epoll = epoll_create1(0);
  struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL };
  epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &e);
  uint64_t start = now();
  if (mode == STREAM) ramp();
  printf("{\"ready\":%.6f}\n", (double)(now() - start) / 1e9);
  fflush(stdout);
  int told = 0;
  for (;;) {
    turn(-1);
    if (asked) {
      asked = 0;
      char word[16];
      if (read(0, word, sizeof word) <= 0) return 0;
      measure();
      /* What is still under way belongs to no measurement. */
      running = mode == STREAM ? 0 : running;
    }
    if (mode == STREAM && !active && !told) {
      told = 1;
      printf("{\"gone\":true}\n");
      fflush(stdout);
    }
  }
}
