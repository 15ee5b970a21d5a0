// What one operation costs without a guest, by calls of the server. Through rings:
// bin/fs/fs_ring_bench.cc.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "fs/testing/fuse_client.h"

namespace wyvern::fs {
namespace {

struct Share {
  explicit Share(SessionFeatures features = {}) {
    std::string pattern = ::access("/dev/shm", W_OK) == 0 ? "/dev/shm/wyvern-fs-bench-XXXXXX"
                                                          : "/tmp/wyvern-fs-bench-XXXXXX";
    directory = ::mkdtemp(pattern.data());
    for (const char* name : {"/a", "/b"}) {
      const UniqueFd fd(::open((directory + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
      const std::string data(1 << 20, 'x');
      static_cast<void>(::write(fd.get(), data.data(), data.size()) < 0);
    }
    FileServerOptions options;
    options.features = features;
    options.root = *Open(directory, O_RDONLY | O_DIRECTORY);
    server = *FileServer::Create(std::move(options));
  }

  ~Share() {
    for (const char* name : {"/a", "/b", ""}) {
      ::remove((directory + name).c_str());
    }
  }

  Share(const Share&) = delete;
  Share& operator=(const Share&) = delete;

  std::string directory;
  std::unique_ptr<FileServer> server;
};

void BM_Lookup(benchmark::State& state) {
  Share share;
  testing::FuseClient client(*share.server);
  client.Init();
  for ([[maybe_unused]] auto step : state) {
    benchmark::DoNotOptimize(client.Lookup(FUSE_ROOT_ID, "a"));
  }
}

void BM_GetAttr(benchmark::State& state) {
  Share share;
  testing::FuseClient client(*share.server);
  client.Init();
  const uint64_t node = client.Lookup(FUSE_ROOT_ID, "a");
  for ([[maybe_unused]] auto step : state) {
    benchmark::DoNotOptimize(client.GetAttr(node).size);
  }
}

void BM_Read(benchmark::State& state) {
  Share share;
  testing::FuseClient client(*share.server);
  client.Init();
  const uint64_t node = client.Lookup(FUSE_ROOT_ID, "a");
  const uint64_t fh = client.Open(node, O_RDONLY);
  const auto size = static_cast<uint32_t>(state.range(0));
  for ([[maybe_unused]] auto step : state) {
    benchmark::DoNotOptimize(client.Read(node, fh, 0, size).size());
  }
  state.SetBytesProcessed(state.iterations() * size);
}

// A lock taken and given up.
void BM_Lock(benchmark::State& state) {
  SessionFeatures features;
  features.posix_locks = true;
  Share share(features);
  testing::FuseClient client(*share.server);
  client.Init();
  const uint64_t node = client.Lookup(FUSE_ROOT_ID, "a");
  fuse_lk_in in{};
  in.fh = client.Open(node, O_RDWR);
  in.lk.end = 9;  // part of the file: the owner keeps its descriptor
  for ([[maybe_unused]] auto step : state) {
    in.lk.type = F_WRLCK;
    client.Call(FUSE_SETLK, node, testing::Body().Put(in));
    in.lk.type = F_UNLCK;
    client.Call(FUSE_SETLK, node, testing::Body().Put(in));
  }
}

BENCHMARK(BM_Lookup);
BENCHMARK(BM_GetAttr);
// 1 MiB is in fs_ring_bench: here the client's new buffer would be most of it.
BENCHMARK(BM_Read)->Arg(4096)->Arg(128 << 10);
BENCHMARK(BM_Lock);

}  // namespace
}  // namespace wyvern::fs

BENCHMARK_MAIN();
