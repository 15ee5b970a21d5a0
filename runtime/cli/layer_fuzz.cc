// Any bytes as an image's layer and as an archive: unpacked or refused, and nothing appears beside the directory they go to.
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/check.h"
#include "base/fd.h"
#include "base/testing/fuzz_directory.h"
#include "cli/layer.h"

namespace {

// A small tmpfs where we may mount one: what is unpacked cannot fill the machine.
std::string MakeRoom() {
  std::string made = wyvern::MakeFuzzDirectory("layer");
  if (unshare(CLONE_NEWNS) == 0 &&
      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) {
    (void)mount("tmpfs", made.c_str(), "tmpfs", 0, "size=16m,nr_inodes=4k");
  }
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  static const std::string room = MakeRoom();
  const std::string inside = room + "/a/b";
  const UniqueFd archive = *MakeMemfd("layer", 0);
  WV_CHECK(WriteAll(archive, std::as_bytes(std::span(data, size))).has_value());
  for (const auto unpack : {cli::UnpackLayer, cli::UnpackArchive}) {
    std::filesystem::create_directories(inside);
    WV_CHECK(lseek(archive.get(), 0, SEEK_SET) == 0);
    (void)unpack(archive, inside);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(room)) {
      const std::string path = entry.path();
      WV_CHECK(path == room + "/a" || path == inside || path.starts_with(inside + "/"));
    }
    std::filesystem::remove_all(room + "/a");
  }
  return 0;
}
