#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "experts/store.h"
#include "offload/share.h"

enum { PARTS_MOST = 6, FILES_MOST = 2 };

/* Room for descriptors beside a message, aligned as it has to be. */
typedef union control {
    struct cmsghdr header;
    char data[CMSG_SPACE(FILES_MOST * sizeof(int))];
} control_t;

static bool send_all(int socket, struct msghdr *message, size_t size);
static void parts_skip(struct msghdr *message, size_t sent);
static void files_keep(struct msghdr *message, int *files);

uint64_t coterie_share_identity(const coterie_source_t *source,
                                uint32_t layers, uint32_t experts)
{
    uint64_t sums[2] = {
        coterie_store_hash(PACKAGE_VERSION, sizeof(PACKAGE_VERSION)), 0};

    for (uint32_t i = 0; i < layers * experts; i++) {
        coterie_extent_t extent =
            coterie_store_extent(source, i / experts, i % experts);

        sums[1] = coterie_store_hash(extent.hashes,
                                     coterie_store_chunks(extent.size) *
                                         sizeof(*extent.hashes));
        sums[0] = coterie_store_hash(sums, sizeof(sums));
    }
    return sums[0];
}

bool coterie_share_send(int socket, const coterie_share_part_t *parts,
                        size_t count)
{
    struct iovec places[PARTS_MOST];
    struct msghdr message = {.msg_iov = places, .msg_iovlen = count};
    size_t size = 0;

    assert(count <= PARTS_MOST);
    for (size_t i = 0; i < count; i++) {
        places[i] = (struct iovec){(void *)parts[i].data, parts[i].size};
        size += parts[i].size;
    }
    return send_all(socket, &message, size);
}

bool coterie_share_receive(int socket, void *data, size_t size)
{
    while (size > 0) {
        ssize_t got = recv(socket, data, size, MSG_WAITALL);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        data = (char *)data + got;
        size -= (size_t)got;
    }
    return true;
}

bool coterie_share_send_files(int socket, const void *data, size_t size,
                              const int *files, size_t count)
{
    control_t control = {.header = {.cmsg_level = SOL_SOCKET,
                                    .cmsg_type = SCM_RIGHTS}};
    struct iovec place = {(void *)data, size};
    struct msghdr message = {.msg_iov = &place,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen =
                                 CMSG_SPACE(count * sizeof(int))};

    assert(count > 0 && count <= FILES_MOST);
    control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), files, count * sizeof(int));
    return send_all(socket, &message, size);
}

bool coterie_share_receive_files(int socket, void *data, size_t size,
                                 int *files)
{
    control_t control;
    struct iovec place = {data, size};
    struct msghdr message = {.msg_iov = &place,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t got;

    for (size_t i = 0; i < FILES_MOST; i++)
        files[i] = -1;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return false;
    files_keep(&message, files);
    return coterie_share_receive(socket, (char *)data + got,
                                 size - (size_t)got);
}

/* Descriptors go out with the first bytes. */
static bool send_all(int socket, struct msghdr *message, size_t size)
{
    while (size > 0) {
        ssize_t sent = sendmsg(socket, message, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return false;
        size -= (size_t)sent;
        parts_skip(message, (size_t)sent);
        message->msg_control = NULL;
        message->msg_controllen = 0;
    }
    return true;
}

static void parts_skip(struct msghdr *message, size_t sent)
{
    while (message->msg_iovlen > 0 && sent >= message->msg_iov->iov_len) {
        sent -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen == 0)
        return;
    message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + sent;
    message->msg_iov->iov_len -= sent;
}

static void files_keep(struct msghdr *message, int *files)
{
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    size_t size;

    if (header == NULL || header->cmsg_level != SOL_SOCKET ||
        header->cmsg_type != SCM_RIGHTS)
        return;
    size = header->cmsg_len - CMSG_LEN(0);
    memcpy(files, CMSG_DATA(header),
           size < FILES_MOST * sizeof(int) ? size : FILES_MOST * sizeof(int));
}
