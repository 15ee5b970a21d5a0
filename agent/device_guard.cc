#include "agent/device_guard.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <system_error>

#include "base/fd.h"

namespace wyvern::agent {
namespace {

// runtime/oci puts containers below it (cgroupsPath).
constexpr char kContainers[] = "/sys/fs/cgroup/wyvern";
constexpr char kPortsDriver[] = "virtio-portsdev";

Result<UniqueFd> Bpf(bpf_cmd command, bpf_attr& attributes, const char* what) {
  const long result = syscall(SYS_bpf, command, &attributes, sizeof(attributes));
  if (result < 0) {
    return SysError(what);
  }
  return UniqueFd(command == BPF_PROG_LOAD ? static_cast<int>(result) : -1);
}

// return !(context->major == major && (context->access_type & 0xffff) == BPF_DEVCG_DEV_CHAR);
Result<UniqueFd> LoadProgram(uint32_t major) {
  const auto load = [](uint8_t to, size_t offset) {
    return bpf_insn{.code = BPF_LDX | BPF_MEM | BPF_W,
                    .dst_reg = static_cast<uint8_t>(to & 0xf),
                    .src_reg = BPF_REG_1,
                    .off = static_cast<int16_t>(offset),
                    .imm = 0};
  };
  const auto immediate = [](uint8_t code, uint8_t to, int16_t offset, uint32_t value) {
    return bpf_insn{.code = code,
                    .dst_reg = static_cast<uint8_t>(to & 0xf),
                    .src_reg = 0,
                    .off = offset,
                    .imm = static_cast<int32_t>(value)};
  };
  const std::array program = {
      immediate(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 1),
      load(BPF_REG_2, offsetof(bpf_cgroup_dev_ctx, major)),
      immediate(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 4, major),
      load(BPF_REG_3, offsetof(bpf_cgroup_dev_ctx, access_type)),
      immediate(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_3, 0, 0xffff),
      immediate(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_3, 1, BPF_DEVCG_DEV_CHAR),
      immediate(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0),
      immediate(BPF_JMP | BPF_EXIT, 0, 0, 0),
  };
  static constexpr char kLicense[] = "Apache-2.0";  // it calls nothing of the kernel's
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program.data());
  attributes.insn_cnt = program.size();
  attributes.license = reinterpret_cast<uint64_t>(kLicense);
  return Bpf(BPF_PROG_LOAD, attributes, "load a device program");
}

}  // namespace

std::optional<uint32_t> CharacterMajor(std::string_view proc_devices, std::string_view driver) {
  // "Character devices:", lines of " 10 misc", an empty line, "Block devices:" and its lines.
  proc_devices = proc_devices.substr(0, proc_devices.find("Block devices:"));
  while (!proc_devices.empty()) {
    const size_t end = proc_devices.find('\n');
    std::string_view line = proc_devices.substr(0, end);
    proc_devices.remove_prefix(end == std::string_view::npos ? proc_devices.size() : end + 1);
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    uint32_t major = 0;
    const auto number = std::from_chars(line.data(), line.data() + line.size(), major);
    if (number.ec == std::errc() &&
        line.substr(static_cast<size_t>(number.ptr - line.data())) == " " + std::string(driver)) {
      return major;
    }
  }
  return std::nullopt;
}

Result<> RefuseDevices(const std::string& cgroup, uint32_t major) {
  WV_TRY(const UniqueFd directory, Open(cgroup, O_RDONLY | O_DIRECTORY));
  WV_TRY(const UniqueFd program, LoadProgram(major));
  bpf_attr attributes{};
  attributes.target_fd = static_cast<uint32_t>(directory.get());
  attributes.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  WV_TRY_VOID(Bpf(BPF_PROG_ATTACH, attributes, "attach a device program"));
  return {};
}

Result<> GuardPorts() {
  WV_TRY(const std::string devices, ReadFile("/proc/devices"));
  const auto major = CharacterMajor(devices, kPortsDriver);
  if (!major) {
    return {};
  }
  if (mkdir(kContainers, 0755) != 0 && errno != EEXIST) {
    return SysError(std::string("mkdir ") + kContainers);
  }
  return RefuseDevices(kContainers, *major);
}

}  // namespace wyvern::agent
