#include "guest/import.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <nettle/sha2.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <utility>

#include "base/cleanup.h"
#include "base/fd.h"
#include "guest/bz_image.h"
#include "guest/elf_file.h"
#include "guest/erofs_file.h"
#include "guest/initramfs.h"
#include "guest/modules.h"

namespace wyvern::guest {

namespace {

constexpr uint64_t kMaxAgent = 64U << 20U;
constexpr char kAgentInImage[] = "sbin/wyvern-agent";

StoredFile Describe(std::string_view bytes) {
  sha256_ctx context;
  sha256_init(&context);
  sha256_update(&context, bytes.size(), reinterpret_cast<const uint8_t*>(bytes.data()));
  std::array<uint8_t, SHA256_DIGEST_SIZE> digest{};
  sha256_digest(&context, digest.size(), digest.data());
  StoredFile file{.digest = "sha256:", .size = bytes.size()};
  for (const uint8_t byte : digest) {
    file.digest += fmt::format("{:02x}", byte);
  }
  return file;
}

struct Kernel {
  std::string file;
  std::string release;
  bool packed = false;
};

Result<Kernel> ReadKernel(const std::string& path) {
  Kernel kernel;
  WV_TRY(const UniqueFd fd, Open(path, O_RDONLY | O_NONBLOCK));
  WV_TRY(const struct stat info, Fstat(fd));
  if (!S_ISREG(info.st_mode)) {
    return Fail(Code::kInvalidArgument, "it is not a file");
  }
  WV_TRY(kernel.file, ReadToEnd(fd, kMaxKernel));
  kernel.packed = !IsElf(kernel.file);
  if (!kernel.packed) {
    WV_TRY_VOID(CheckKernelElf(kernel.file));
    kernel.release = KernelRelease(kernel.file);
  } else if (IsBzImage(kernel.file)) {
    WV_TRY(const BzImage image, ParseBzImage(kernel.file));
    kernel.release = image.release;
  } else {
    return Fail(Code::kInvalidArgument,
                "it is no kernel: give a boot image (/boot/vmlinuz-RELEASE) or an unpacked kernel "
                "(vmlinux, an ELF file)");
  }
  if (!IsGuestName(kernel.release)) {
    return Fail(Code::kInvalidArgument, "the kernel does not say which release it is");
  }
  return kernel;
}

Result<std::string> ReadAgent(const ImportOptions& options) {
  if (!options.agent.empty()) {
    return ReadFile(options.agent, kMaxAgent);
  }
  WV_TRY(const UniqueFd image, Open(options.image, O_RDONLY));
  WV_TRY_CONTEXT(
      std::string agent, ReadErofsFile(image, kAgentInImage, kMaxAgent),
      fmt::format("the agent in the guest image {} (--agent FILE gives another)", options.image));
  return agent;
}

// Held until the descriptor is closed.
Result<UniqueFd> LockStore(const std::string& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return SysErrorFrom(error.value(), "create " + directory);
  }
  WV_TRY(UniqueFd lock, Open(directory + "/.lock", O_RDWR | O_CREAT, 0600));
  if (flock(lock.get(), LOCK_EX) != 0) {
    return SysError("lock " + directory);
  }
  return lock;
}

// The files of a guest that was stored before, if they are still what they were.
bool IsIntact(const Guest& guest) {
  const auto same = [](const std::string& path, const StoredFile& file) {
    const auto bytes = ReadFile(path, kMaxKernel);
    return bytes && Describe(*bytes).digest == file.digest;
  };
  return same(guest.kernel_path(), guest.kernel) && same(guest.initrd_path(), guest.initrd);
}

Result<std::string> TakeKernel(Kernel kernel) {
  if (!kernel.packed) {
    return std::move(kernel.file);
  }
  WV_TRY(const BzImage image, ParseBzImage(kernel.file));
  WV_TRY(std::string unpacked, UnpackKernel(image));
  WV_TRY_VOID(CheckKernelElf(unpacked));
  return unpacked;
}

Result<> Store(const ImportOptions& options, const Guest& guest, std::string_view kernel,
               std::string_view initrd) {
  const std::string temporary = options.directory + "/.new";  // the lock makes it ours alone
  std::error_code ignored;
  std::filesystem::remove_all(temporary, ignored);
  if (mkdir(temporary.c_str(), 0755) != 0) {
    return SysError("create " + temporary);
  }
  Cleanup remove([&temporary] {
    std::error_code error;
    std::filesystem::remove_all(temporary, error);
  });
  WV_TRY_VOID(WriteFileAtomically(temporary + "/vmlinux", kernel, 0644));
  WV_TRY_VOID(WriteFileAtomically(temporary + "/initrd", initrd, 0644));
  return PutGuest(options.directory, guest, temporary);
}

}  // namespace

Result<Imported> ImportGuest(const ImportOptions& options) {
  WV_TRY_CONTEXT(Kernel kernel, ReadKernel(options.kernel), "--kernel " + options.kernel);
  Imported imported;
  Guest& guest = imported.guest;
  guest.name = options.name.empty() ? kernel.release : options.name;
  if (!IsGuestName(guest.name)) {
    return Fail(Code::kInvalidArgument,
                "--name: letters, digits and ._+- only, at most 64, not \"" + guest.name + "\"");
  }
  WV_TRY(ModuleSet modules,
         CollectModules(options.modules.empty() ? "/lib/modules" : options.modules, kernel.release,
                        options.extra_modules));
  WV_TRY(const std::string agent, ReadAgent(options));
  WV_TRY(const std::string initrd, BuildInitramfs(agent, modules.modules));
  guest.release = kernel.release;
  guest.cmdline = options.cmdline;
  guest.source_digest = Describe(kernel.file).digest;
  guest.initrd = Describe(initrd);
  for (const Module& module : modules.modules) {
    guest.modules.push_back(module.name);
  }
  imported.missing = std::move(modules.missing);

  WV_TRY(const UniqueFd lock, LockStore(options.directory));
  const auto before = FindGuest(options.directory, guest.name);
  if (before && before->source_digest == guest.source_digest &&
      before->initrd.digest == guest.initrd.digest && before->cmdline == guest.cmdline &&
      IsIntact(*before)) {
    guest = *before;
    imported.cached = true;
    return imported;
  }
  WV_TRY_CONTEXT(const std::string unpacked, TakeKernel(std::move(kernel)),
                 "--kernel " + options.kernel);
  guest.kernel = Describe(unpacked);
  WV_TRY_VOID(Store(options, guest, unpacked, initrd));
  guest.directory = options.directory + "/" + guest.name;
  return imported;
}

}  // namespace wyvern::guest
