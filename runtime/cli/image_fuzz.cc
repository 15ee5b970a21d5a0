// An OCI layout whose index.json and one blob are any bytes: opened or refused, nothing written outside of the store.
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/fd.h"
#include "base/testing/fuzz_directory.h"
#include "cli/digest.h"
#include "cli/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern;
  static const std::string root = MakeFuzzDirectory("image");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t split = text.find('\n');
  const std::string_view index = text.substr(0, split);
  const std::string_view blob =
      split == std::string_view::npos ? std::string_view() : text.substr(split + 1);
  std::filesystem::create_directories(root + "/layout/blobs/sha256");
  (void)WriteFile(root + "/layout/oci-layout", "{}");
  (void)WriteFile(root + "/layout/index.json", index);
  const std::string path = root + "/layout/blobs/sha256/" + cli::Sha256(blob).substr(7);
  (void)WriteFile(path, blob);
  (void)cli::OpenImage(root + "/layout", root + "/store");
  // The blob as an archive, too.
  (void)cli::OpenImage(path, root + "/store");
  unlink(path.c_str());
  return 0;
}
