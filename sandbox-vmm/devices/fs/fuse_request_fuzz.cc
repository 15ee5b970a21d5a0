// Sequences of FUSE requests against a server over a small directory: each is two little-endian
// lengths (request, reply space) and bytes.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "fs/file_server.h"

namespace wyvern::fs {
namespace {

// A directory that cannot grow: a small tmpfs where we may mount one, in any case small files.
std::string MakeDirectory() {
  static char pattern[] = "/tmp/wyvern-fuse-fuzz-XXXXXX";
  WV_CHECK(::mkdtemp(pattern) != nullptr);
  if (::unshare(CLONE_NEWNS) == 0 &&
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) {
    ::mount("tmpfs", pattern, "tmpfs", 0, "size=4m,nr_inodes=4k");
  }
  const rlimit small{1 << 20, 1 << 20};
  ::setrlimit(RLIMIT_FSIZE, &small);
  ::signal(SIGXFSZ, SIG_IGN);
  return pattern;
}

void Fill(const std::string& directory) {
  ::mkdir((directory + "/d").c_str(), 0755);
  for (const char* name : {"/a", "/d/b"}) {
    const UniqueFd fd(::open((directory + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    WV_CHECK(::write(fd.get(), "0123456789", 10) == 10);
  }
  WV_CHECK(::symlink("../../etc/passwd", (directory + "/l").c_str()) == 0);
}

FileServer& Server() {
  static const std::unique_ptr<FileServer> server = [] {
    SetLogLevel(LogLevel::kError);
    ::umask(0);
    const std::string directory = MakeDirectory();
    Fill(directory);
    FileServerOptions options;
    options.root = *Open(directory, O_RDONLY | O_DIRECTORY);
    options.inodes = {.inodes = 256, .resident = 8, .nameless = 16};
    options.max_handles = 64;
    return *FileServer::Create(std::move(options));
  }();
  return *server;
}

void Call(std::string in, size_t room) {
  static Scratch scratch;
  std::string out(room, '\0');
  const iovec in_part{in.data(), in.size()};
  const iovec out_part{out.data(), out.size()};
  const uint32_t written =
      Server().Handle(std::span(&in_part, 1), std::span(&out_part, 1), &scratch);
  WV_CHECK(written <= room);
  if (written >= sizeof(fuse_out_header)) {
    fuse_out_header header{};
    std::memcpy(&header, out.data(), sizeof(header));
    WV_CHECK(header.len == written && header.error <= 0 && header.error > -4096);
  }
}

void Init() {
  fuse_in_header header{};
  header.len = sizeof(header) + sizeof(fuse_init_in);
  header.opcode = FUSE_INIT;
  fuse_init_in in{};
  in.major = kFuseMajor;
  in.minor = kFuseMinor;
  in.flags = ~0U;
  Call(std::string(reinterpret_cast<const char*>(&header), sizeof(header)) +
           std::string(reinterpret_cast<const char*>(&in), sizeof(in)),
       256);
}

}  // namespace
}  // namespace wyvern::fs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::fs::Init();
  for (int calls = 0; size >= 4 && calls < 64; ++calls) {
    const size_t wanted = data[0] | (size_t{data[1]} << 8U);
    const size_t room = data[2] | (size_t{data[3]} << 8U);
    data += 4;
    size -= 4;
    const size_t length = wanted < size ? wanted : size;
    wyvern::fs::Call(std::string(reinterpret_cast<const char*>(data), length), room);
    data += length;
    size -= length;
  }
  wyvern::fs::Server().Clear();
  return 0;
}
