#include "storage/loop.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <cerrno>

namespace wyvern::runtime {

Result<LoopDevice> LoopDevice::Attach(const std::string& image, bool read_only) {
  WV_TRY_CONTEXT(const UniqueFd backing, Open(image, read_only ? O_RDONLY : O_RDWR), "loop mount");
  WV_TRY_CONTEXT(const UniqueFd control, Open("/dev/loop-control", O_RDWR),
                 "loop mount (is the loop module there?)");
  // Between "free" and "configure" another process may take the device: try again with the next one.
  for (int attempt = 0; attempt < 64; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) {
      return SysError("ioctl(LOOP_CTL_GET_FREE)");
    }
    std::string path = fmt::format("/dev/loop{}", number);
    WV_TRY(UniqueFd device, Open(path, read_only ? O_RDONLY : O_RDWR));
    loop_config config = {};
    config.fd = static_cast<__u32>(backing.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (read_only ? LO_FLAGS_READ_ONLY : 0);
    if (ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) {
      return LoopDevice(std::move(device), std::move(path));
    }
    if (errno != EBUSY) {
      return SysError(fmt::format("ioctl(LOOP_CONFIGURE) {} over {}", path, image));
    }
  }
  return Fail(Code::kUnavailable, "no free loop device");
}

}  // namespace wyvern::runtime
