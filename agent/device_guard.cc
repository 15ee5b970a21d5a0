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
#include <vector>

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

// linux/fs/char_dev.c, find_dynamic_major: CHRDEV_MAJOR_DYN_END to 254, then CHRDEV_MAJOR_DYN_EXT_END to _EXT_START.
struct Majors {
  uint32_t first;
  uint32_t last;
};

constexpr std::array kDynamic = {Majors{234, 254}, Majors{384, 511}};

bpf_insn Load(uint8_t to, size_t offset) {
  return {.code = BPF_LDX | BPF_MEM | BPF_W,
          .dst_reg = static_cast<uint8_t>(to & 0xf),
          .src_reg = BPF_REG_1,
          .off = static_cast<int16_t>(offset),
          .imm = 0};
}

bpf_insn Immediate(uint8_t code, uint8_t to, size_t skip, uint32_t value) {
  return {.code = code,
          .dst_reg = static_cast<uint8_t>(to & 0xf),
          .src_reg = 0,
          .off = static_cast<int16_t>(skip),
          .imm = static_cast<int32_t>(value)};
}

// Answers 0 for a character device of a dynamic number that is not allowed, else 1. A jump skips so many instructions.
std::vector<bpf_insn> RefusingProgram(const std::set<uint32_t>& allowed) {
  constexpr uint8_t kMove = BPF_ALU64 | BPF_MOV | BPF_K;
  constexpr uint8_t kReturn = BPF_JMP | BPF_EXIT;
  std::vector<bpf_insn> program = {
      Immediate(kMove, BPF_REG_0, 0, 1),
      Load(BPF_REG_3, offsetof(bpf_cgroup_dev_ctx, access_type)),
      Immediate(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_3, 0, 0xffff),
      Immediate(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_3, 1, BPF_DEVCG_DEV_CHAR),
      Immediate(kReturn, 0, 0, 0),
      Load(BPF_REG_2, offsetof(bpf_cgroup_dev_ctx, major)),
  };
  for (const uint32_t major : allowed) {
    program.push_back(Immediate(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 1, major));
    program.push_back(Immediate(kReturn, 0, 0, 0));
  }
  for (const Majors& range : kDynamic) {
    program.push_back(Immediate(BPF_JMP | BPF_JLT | BPF_K, BPF_REG_2, 3, range.first));
    program.push_back(Immediate(BPF_JMP | BPF_JGT | BPF_K, BPF_REG_2, 2, range.last));
    program.push_back(Immediate(kMove, BPF_REG_0, 0, 0));
    program.push_back(Immediate(kReturn, 0, 0, 0));
  }
  program.push_back(Immediate(kReturn, 0, 0, 0));
  return program;
}

Result<UniqueFd> LoadProgram(const std::vector<bpf_insn>& program) {
  static constexpr char kLicense[] = "Apache-2.0";  // it calls nothing of the kernel's
  bpf_attr attributes{};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program.data());
  attributes.insn_cnt = static_cast<uint32_t>(program.size());
  attributes.license = reinterpret_cast<uint64_t>(kLicense);
  return Bpf(BPF_PROG_LOAD, attributes, "load a device program");
}

}  // namespace

std::set<uint32_t> DynamicMajorsBut(std::string_view driver, std::string_view proc_devices) {
  std::set<uint32_t> majors;
  // "Character devices:", lines of " 10 misc", an empty line, "Block devices:" and its lines.
  proc_devices = proc_devices.substr(0, proc_devices.find("Block devices:"));
  while (!proc_devices.empty()) {
    const size_t end = proc_devices.find('\n');
    std::string_view line = proc_devices.substr(0, end);
    proc_devices.remove_prefix(end == std::string_view::npos ? proc_devices.size() : end + 1);
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    uint32_t major = 0;
    const auto number = std::from_chars(line.data(), line.data() + line.size(), major);
    const bool dynamic = std::ranges::any_of(kDynamic, [major](const Majors& range) {
      return major >= range.first && major <= range.last;
    });
    if (number.ec == std::errc() && dynamic &&
        line.substr(static_cast<size_t>(number.ptr - line.data())) != " " + std::string(driver)) {
      majors.insert(major);
    }
  }
  return majors;
}

Result<> RefuseDynamicDevices(const std::string& cgroup, const std::set<uint32_t>& allowed) {
  WV_TRY(const UniqueFd directory, Open(cgroup, O_RDONLY | O_DIRECTORY));
  WV_TRY(const UniqueFd program, LoadProgram(RefusingProgram(allowed)));
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
  if (mkdir(kContainers, 0755) != 0 && errno != EEXIST) {
    return SysError(std::string("mkdir ") + kContainers);
  }
  return RefuseDynamicDevices(kContainers, DynamicMajorsBut(kPortsDriver, devices));
}

}  // namespace wyvern::agent
