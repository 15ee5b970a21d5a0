// fs/testing/fuse_client.h — speaks FUSE to a FileServer as a guest's kernel would, for tests and
// benchmarks.
// Threads: one client per thread.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/file_server.h"

namespace wyvern::fs::testing {

struct Reply {
  bool answered = false;
  int error = 0;  // positive errno
  std::string payload;

  template <typename T>
  T As(size_t offset = 0) const {
    T value{};
    if (payload.size() >= offset + sizeof(T)) {
      std::memcpy(&value, payload.data() + offset, sizeof(T));
    }
    return value;
  }
};

// Bytes of wire structures and strings, in order.
class Body {
 public:
  template <typename T>
  Body& Put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }

  Body& Name(std::string_view name) {
    bytes_.append(name);
    bytes_.push_back('\0');
    return *this;
  }

  Body& Raw(std::string_view bytes) {
    bytes_.append(bytes);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Takes a request to a server and its reply into `out`; the bytes written there.
using Carrier = std::function<uint32_t(std::span<const iovec> request, std::span<const iovec> out)>;

class FuseClient {
 public:
  explicit FuseClient(FileServer& server)
      : carrier_([&server, scratch = std::make_shared<Scratch>()](auto request, auto out) {
          return server.Handle(request, out, scratch.get());
        }) {}

  explicit FuseClient(Carrier carrier) : carrier_(std::move(carrier)) {}

  uint32_t uid = 0;
  uint32_t gid = 0;
  uint16_t extension_words = 0;  // fuse_in_header.total_extlen of the next requests

  // One request with `room` bytes for the reply's payload.
  Reply Call(uint32_t opcode, uint64_t node, const Body& body, size_t room = 4096);

  // As it lies there; the bytes of `out` that were written.
  uint32_t Carry(std::span<const iovec> request, std::span<const iovec> out) {
    return carrier_(request, out);
  }

  // The bytes as they are.
  Reply Raw(std::string_view request, size_t reply_bytes);

  Reply Init(uint64_t flags = ~uint64_t{0}, uint32_t minor = 38);
  // 0: no such name (error() says why).
  uint64_t Lookup(uint64_t parent, std::string_view name);
  fuse_entry_out LookupEntry(uint64_t parent, std::string_view name);
  // By names from the root.
  uint64_t Walk(std::string_view path);
  void Forget(uint64_t node, uint64_t count = 1);
  fuse_attr GetAttr(uint64_t node);
  uint64_t Open(uint64_t node, uint32_t flags);
  uint64_t Create(uint64_t parent, std::string_view name, uint32_t flags, uint32_t mode,
                  uint64_t* node = nullptr);
  std::string Read(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size);
  uint32_t Write(uint64_t node, uint64_t fh, uint64_t offset, std::string_view data,
                 uint32_t file_flags = 0, uint32_t write_flags = 0);
  void Release(uint64_t node, uint64_t fh);
  uint64_t Mkdir(uint64_t parent, std::string_view name, uint32_t mode = 0755);
  int Unlink(uint64_t parent, std::string_view name);

  struct DirEntry {
    std::string name;
    uint64_t ino;
    uint64_t offset;
    uint32_t type;
    fuse_entry_out entry;
  };

  // Lists the whole directory with requests of `size` bytes.
  std::vector<DirEntry> ReadAll(uint64_t node, bool plus, uint32_t size = 4096);

  // Of the last request.
  int error() const { return error_; }

 private:
  Carrier carrier_;
  uint64_t unique_ = 0;
  int error_ = 0;
};

}  // namespace wyvern::fs::testing
