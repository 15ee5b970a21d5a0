#include "network/loopback.h"

#include <linux/bpf.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/unix_socket.h"
#include "network/netns.h"

namespace wyvern::runtime {
namespace {

constexpr int kBacklog = 128;
constexpr int kAcceptTurn = 64;
constexpr std::chrono::milliseconds kRest{100};
// Memory of bpf_sk_lookup is in network order: the first byte of an address is the lowest of the word.
static_assert(std::endian::native == std::endian::little);

Result<UniqueFd> Bpf(int command, bpf_attr& attr, const char* what) {
  UniqueFd fd(static_cast<int>(syscall(SYS_bpf, command, &attr, sizeof(attr))));
  if (!fd.valid()) {
    return SysError(what);
  }
  return fd;
}

constexpr bpf_insn Insn(int code, int dst, int src, int offset, int32_t immediate) {
  bpf_insn insn{};
  insn.code = static_cast<uint8_t>(code);
  insn.dst_reg = static_cast<uint8_t>(dst & 0xf);
  insn.src_reg = static_cast<uint8_t>(src & 0xf);
  insn.off = static_cast<int16_t>(offset);
  insn.imm = immediate;
  return insn;
}

constexpr bpf_insn Move(int dst, int src) {
  return Insn(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

constexpr bpf_insn Set(int dst, int32_t value) {
  return Insn(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

constexpr bpf_insn CallHelper(int helper) {
  return Insn(BPF_JMP | BPF_CALL, 0, 0, 0, helper);
}

// Instructions in order; jumps go forward, to a label that comes later.
class Program {
 public:
  enum Label : uint8_t { kIsV4, kTake, kPass, kLabels };

  void Add(const bpf_insn& insn) { insns_.push_back(insn); }

  // r0 = that word of bpf_sk_lookup, which r6 points to.
  void Load(size_t field) {
    Add(Insn(BPF_LDX | BPF_MEM | BPF_W, BPF_REG_0, BPF_REG_6, static_cast<int>(field), 0));
  }

  // Compares r0: BPF_JEQ, BPF_JNE; BPF_JA always jumps.
  void Jump(int condition, int32_t value, Label label) {
    jumps_.emplace_back(insns_.size(), label);
    Add(Insn(BPF_JMP | condition | BPF_K, BPF_REG_0, 0, 0, value));
  }

  void Mark(Label label) {
    for (const auto& [at, to] : jumps_) {
      if (to == label) {
        insns_[at].off = static_cast<int16_t>(insns_.size() - at - 1);
      }
    }
  }

  const std::vector<bpf_insn>& insns() const { return insns_; }

 private:
  std::vector<bpf_insn> insns_;
  std::vector<std::pair<size_t, Label>> jumps_;
};

void AddLoopbackTest(Program& program) {
  program.Load(offsetof(bpf_sk_lookup, protocol));
  program.Jump(BPF_JNE, IPPROTO_TCP, Program::kPass);
  program.Load(offsetof(bpf_sk_lookup, family));
  program.Jump(BPF_JEQ, AF_INET, Program::kIsV4);
  program.Jump(BPF_JNE, AF_INET6, Program::kPass);
  constexpr std::array<int32_t, 4> kLoopback6 = {0, 0, 0, 0x01000000};
  for (size_t i = 0; i < kLoopback6.size(); ++i) {
    program.Load(offsetof(bpf_sk_lookup, local_ip6) + i * sizeof(uint32_t));
    program.Jump(BPF_JNE, kLoopback6[i], Program::kPass);
  }
  program.Jump(BPF_JA, 0, Program::kTake);
  program.Mark(Program::kIsV4);
  program.Load(offsetof(bpf_sk_lookup, local_ip4));
  program.Add(Insn(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_0, 0, 0, 0xff));
  program.Jump(BPF_JNE, IN_LOOPBACKNET, Program::kPass);
}

// TCP to the loopback gets the map's socket; anything else goes where it would.
Program MakeProgram(FdRef map) {
  Program program;
  program.Add(Move(BPF_REG_6, BPF_REG_1));
  AddLoopbackTest(program);
  program.Mark(Program::kTake);
  constexpr int kKey = -4;  // on the stack
  program.Add(Insn(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, kKey, 0));
  program.Add(Move(BPF_REG_2, BPF_REG_10));
  // NOLINTBEGIN(misc-redundant-expression): several of these words are 0.
  program.Add(Insn(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, kKey));
  program.Add(Insn(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map.get()));
  // NOLINTEND(misc-redundant-expression)
  program.Add(Insn(0, 0, 0, 0, 0));  // its upper half
  program.Add(CallHelper(BPF_FUNC_map_lookup_elem));
  program.Jump(BPF_JEQ, 0, Program::kPass);
  program.Add(Move(BPF_REG_7, BPF_REG_0));
  program.Add(Move(BPF_REG_1, BPF_REG_6));
  program.Add(Move(BPF_REG_2, BPF_REG_7));
  program.Add(Set(BPF_REG_3, 0));
  program.Add(CallHelper(BPF_FUNC_sk_assign));
  program.Add(Move(BPF_REG_1, BPF_REG_7));
  program.Add(CallHelper(BPF_FUNC_sk_release));
  program.Mark(Program::kPass);
  program.Add(Set(BPF_REG_0, SK_PASS));
  program.Add(Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return program;
}

Result<UniqueFd> MapWith(FdRef socket) {
  bpf_attr create{};
  create.map_type = BPF_MAP_TYPE_SOCKMAP;
  create.key_size = sizeof(uint32_t);
  create.value_size = sizeof(uint64_t);
  create.max_entries = 1;
  WV_TRY(UniqueFd map, Bpf(BPF_MAP_CREATE, create, "bpf(BPF_MAP_CREATE)"));
  const uint32_t key = 0;
  const auto value = static_cast<uint64_t>(socket.get());
  bpf_attr update{};
  update.map_fd = static_cast<uint32_t>(map.get());
  update.key = reinterpret_cast<uintptr_t>(&key);
  update.value = reinterpret_cast<uintptr_t>(&value);
  if (syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &update, sizeof(update)) != 0) {
    return SysError("bpf(BPF_MAP_UPDATE_ELEM)");
  }
  return map;
}

// The program at work in the namespace, for as long as the descriptor lives.
Result<UniqueFd> Redirect(FdRef network_namespace, FdRef listener) {
  WV_TRY(const UniqueFd map, MapWith(listener));
  const Program program = MakeProgram(map);
  bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_SK_LOOKUP;
  load.expected_attach_type = BPF_SK_LOOKUP;
  load.insns = reinterpret_cast<uintptr_t>(program.insns().data());
  load.insn_cnt = static_cast<uint32_t>(program.insns().size());
  load.license = reinterpret_cast<uintptr_t>("Apache-2.0");
  WV_TRY(const UniqueFd loaded, Bpf(BPF_PROG_LOAD, load, "bpf(BPF_PROG_LOAD)"));
  bpf_attr attach{};
  attach.link_create.prog_fd = static_cast<uint32_t>(loaded.get());
  attach.link_create.target_fd = static_cast<uint32_t>(network_namespace.get());
  attach.link_create.attach_type = BPF_SK_LOOKUP;
  return Bpf(BPF_LINK_CREATE, attach, "bpf(BPF_LINK_CREATE)");
}

// For both families, or for IPv4 where the kernel has no IPv6. Not bound to an address: an IPv6 socket that is cannot be given IPv4's. Its own
// port is nobody's business; what is sent to the pod's addresses goes to the guest before any socket of the namespace.
Result<UniqueFd> ListeningSocket() {
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  v6.sin6_addr = in6addr_any;
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  constexpr int kFlags = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
  UniqueFd fd(socket(AF_INET6, kFlags, 0));
  const int both = 0;
  if (!fd.valid() || setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof(both)) != 0 ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&v6), sizeof(v6)) != 0) {
    fd.Reset(socket(AF_INET, kFlags, 0));
    if (!fd.valid() || bind(fd.get(), reinterpret_cast<const sockaddr*>(&v4), sizeof(v4)) != 0) {
      return SysError("a socket on the loopback");
    }
  }
  if (listen(fd.get(), kBacklog) != 0) {
    return SysError("listen");
  }
  return fd;
}

// What the client dialled: the connection's own address.
Result<uint16_t> PortOf(FdRef connection) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(connection.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return SysError("getsockname");
  }
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

Result<std::unique_ptr<LoopbackListener>> LoopbackListener::Start(EventLoop& loop,
                                                                  FdRef network_namespace,
                                                                  Accepted accepted) {
  UniqueFd listener;
  WV_TRY_VOID(InNetworkNamespace(network_namespace, [&]() -> Result<> {
    WV_TRY(listener, ListeningSocket());
    return {};
  }));
  WV_TRY(UniqueFd link, Redirect(network_namespace, listener));
  std::unique_ptr<LoopbackListener> made(
      new LoopbackListener(loop, std::move(listener), std::move(link), std::move(accepted)));
  WV_TRY_VOID(made->Listen());
  return made;
}

LoopbackListener::LoopbackListener(EventLoop& loop, UniqueFd listener, UniqueFd link,
                                   Accepted accepted)
    : loop_(loop),
      listener_(std::move(listener)),
      link_(std::move(link)),
      accepted_(std::move(accepted)) {}

LoopbackListener::~LoopbackListener() {
  loop_.Remove(token_);
}

Result<> LoopbackListener::Listen() {
  WV_TRY(token_, loop_.Add(listener_, EPOLLIN, [this](uint32_t) { OnConnections(); }));
  return {};
}

// The listener stays readable: asked again at once, the loop would do nothing else.
void LoopbackListener::Rest() {
  loop_.Remove(token_);
  token_ = loop_.After(kRest, [this] {
    if (auto listens = Listen(); !listens.has_value()) {
      WV_WARN_LIMITED("connections to the loopback wait: {}", listens.error().message());
      Rest();
    }
  });
}

void LoopbackListener::OnConnections() {
  for (int i = 0; i < kAcceptTurn; ++i) {
    auto connection = Accept(listener_);
    if (!connection.has_value()) {
      if (const int number = connection.error().sys_errno();
          number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOBUFS) {
        WV_WARN_LIMITED("connections to the loopback wait: {}", connection.error().message());
        Rest();
      }
      return;
    }
    const auto port = PortOf(*connection);
    if (!port.has_value()) {
      WV_WARN_LIMITED("a connection to the loopback: {}", port.error().message());
      continue;
    }
    accepted_(std::move(*connection), *port);
  }
}

}  // namespace wyvern::runtime
