#include "acpi/aml.h"

#include <algorithm>

#include "base/check.h"

namespace wyvern::acpi {

namespace {

// ACPI 6.5 §20.2: opcodes.
constexpr uint8_t kZeroOp = 0x00;
constexpr uint8_t kOneOp = 0x01;
constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDwordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kQwordPrefix = 0x0e;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kDualNamePrefix = 0x2e;
constexpr uint8_t kExtPrefix = 0x5b;
constexpr uint8_t kExtDeviceOp = 0x82;

void Append(Bytes* out, const Bytes& bytes) {
  out->insert(out->end(), bytes.begin(), bytes.end());
}

// §20.2.4: the length counts its own bytes.
Bytes WithPackageLength(const Bytes& body) {
  const size_t size = body.size();
  Bytes out;
  if (size + 1 < 0x40) {
    out.push_back(static_cast<uint8_t>(size + 1));
  } else {
    size_t extra = 1;
    while (size + 1 + extra >= (size_t{1} << (4 + 8 * extra))) {
      ++extra;
    }
    WV_CHECK(extra <= 3);
    const size_t total = size + 1 + extra;
    out.push_back(static_cast<uint8_t>((extra << 6U) | (total & 0xfU)));
    for (size_t i = 0; i < extra; ++i) {
      out.push_back(static_cast<uint8_t>(total >> (4 + 8 * i)));
    }
  }
  Append(&out, body);
  return out;
}

// §20.2.2
Bytes NameString(std::string_view path) {
  Bytes out;
  if (path.starts_with('\\')) {
    out.push_back('\\');
    path.remove_prefix(1);
  }
  if (path.find('.') != std::string_view::npos) {
    out.push_back(kDualNamePrefix);
  }
  size_t segments = 0;
  while (!path.empty()) {
    const size_t length = std::min(path.find('.'), path.size());
    WV_CHECK(length >= 1 && length <= 4 && ++segments <= 2);
    for (size_t i = 0; i < 4; ++i) {
      out.push_back(static_cast<uint8_t>(i < length ? path[i] : '_'));
    }
    path.remove_prefix(std::min(length + 1, path.size()));
  }
  WV_CHECK(segments >= 1);
  return out;
}

Bytes Container(Bytes opcode, std::string_view path, std::initializer_list<Bytes> terms) {
  Bytes body = NameString(path);
  Append(&body, Concat(terms));
  Append(&opcode, WithPackageLength(body));
  return opcode;
}

// §6.4.3.5: address space descriptors, fixed minimum and maximum, producer.
template <typename T>
Bytes AddressSpace(uint8_t tag, uint8_t type, uint8_t type_flags, T first, T length) {
  Bytes out{tag};
  AppendLe<uint16_t>(&out, static_cast<uint16_t>(3 + 5 * sizeof(T)));
  out.push_back(type);
  out.push_back(0x0c);  // minimum and maximum fixed, positive decode, producer
  out.push_back(type_flags);
  AppendLe<T>(&out, 0);  // granularity
  AppendLe<T>(&out, first);
  AppendLe<T>(&out, static_cast<T>(first + (length - 1)));
  AppendLe<T>(&out, 0);  // translation
  AppendLe<T>(&out, length);
  return out;
}

constexpr uint8_t kTypeMemory = 0;
constexpr uint8_t kTypeBus = 2;
constexpr uint8_t kMemoryReadWrite = 0x01;  // not cacheable

}  // namespace

Bytes Concat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) {
    Append(&out, part);
  }
  return out;
}

Bytes Integer(uint64_t value) {
  Bytes out;
  if (value <= 1) {
    out.push_back(value == 0 ? kZeroOp : kOneOp);
  } else if (value <= 0xff) {
    out.push_back(kBytePrefix);
    AppendLe<uint8_t>(&out, static_cast<uint8_t>(value));
  } else if (value <= 0xffff) {
    out.push_back(kWordPrefix);
    AppendLe<uint16_t>(&out, static_cast<uint16_t>(value));
  } else if (value <= 0xffffffff) {
    out.push_back(kDwordPrefix);
    AppendLe<uint32_t>(&out, static_cast<uint32_t>(value));
  } else {
    out.push_back(kQwordPrefix);
    AppendLe<uint64_t>(&out, value);
  }
  return out;
}

Bytes String(std::string_view text) {
  Bytes out{kStringPrefix};
  for (const char c : text) {
    WV_CHECK(c > 0);
    out.push_back(static_cast<uint8_t>(c));
  }
  out.push_back(0);
  return out;
}

Bytes EisaId(std::string_view id) {
  WV_CHECK(id.size() == 7);
  const auto letter = [&](size_t i) { return static_cast<uint32_t>(id[i] - 0x40) & 0x1fU; };
  const auto hex = [&](size_t i) {
    const char c = id[i];
    return static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10);
  };
  const uint32_t big_endian = letter(0) << 26U | letter(1) << 21U | letter(2) << 16U |
                              hex(3) << 12U | hex(4) << 8U | hex(5) << 4U | hex(6);
  Bytes out{kDwordPrefix};
  for (unsigned i = 0; i < 4; ++i) {
    out.push_back(static_cast<uint8_t>(big_endian >> (24U - 8U * i)));
  }
  return out;
}

Bytes Package(std::initializer_list<Bytes> elements) {
  WV_CHECK(elements.size() <= 255);
  Bytes body{static_cast<uint8_t>(elements.size())};
  Append(&body, Concat(elements));
  Bytes out{kPackageOp};
  Append(&out, WithPackageLength(body));
  return out;
}

Bytes Name(std::string_view path, const Bytes& value) {
  return Concat({{kNameOp}, NameString(path), value});
}

Bytes Scope(std::string_view path, std::initializer_list<Bytes> terms) {
  return Container({kScopeOp}, path, terms);
}

Bytes Device(std::string_view path, std::initializer_list<Bytes> terms) {
  return Container({kExtPrefix, kExtDeviceOp}, path, terms);
}

Bytes ResourceTemplate(std::initializer_list<Bytes> descriptors) {
  Bytes data = Concat(descriptors);
  data.push_back(0x79);  // end tag, checksum 0: not checked
  data.push_back(0);
  Bytes body = Integer(data.size());
  Append(&body, data);
  Bytes out{kBufferOp};
  Append(&out, WithPackageLength(body));
  return out;
}

Bytes IoPorts(uint16_t start, uint8_t length) {
  Bytes out{0x47, 0x01};  // I/O port descriptor, 16-bit decode
  AppendLe<uint16_t>(&out, start);
  AppendLe<uint16_t>(&out, start);
  out.push_back(1);
  out.push_back(length);
  return out;
}

Bytes IsaInterrupt(uint8_t irq) {
  WV_CHECK(irq < 16);
  Bytes out{0x22};  // IRQ descriptor without flags: edge, high, exclusive
  AppendLe<uint16_t>(&out, static_cast<uint16_t>(1U << irq));
  return out;
}

Bytes Memory32(uint32_t start, uint32_t length) {
  Bytes out{0x86, 0x09, 0x00, 0x01};  // fixed 32-bit memory range, read-write
  AppendLe<uint32_t>(&out, start);
  AppendLe<uint32_t>(&out, length);
  return out;
}

Bytes BusNumbers(uint8_t first, uint16_t count) {
  return AddressSpace<uint16_t>(0x88, kTypeBus, 0, first, count);
}

Bytes MemoryWindow32(uint32_t start, uint32_t length) {
  return AddressSpace<uint32_t>(0x87, kTypeMemory, kMemoryReadWrite, start, length);
}

Bytes MemoryWindow64(uint64_t start, uint64_t length) {
  return AddressSpace<uint64_t>(0x8a, kTypeMemory, kMemoryReadWrite, start, length);
}

}  // namespace wyvern::acpi
