// The tables of any machine, read back as a guest reads them: from the RSDP, by lengths and checksums, down to the nesting of the AML.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>

#include "acpi/tables.h"
#include "base/check.h"

namespace {

using Span = std::span<const uint8_t>;

template <typename T>
T Load(Span bytes, size_t at) {
  T value;
  WV_CHECK(at <= bytes.size() && sizeof(value) <= bytes.size() - at);
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

Span Part(Span bytes, size_t at, size_t size) {
  WV_CHECK(at <= bytes.size() && size <= bytes.size() - at);
  return bytes.subspan(at, size);
}

void CheckSum(Span bytes) {
  WV_CHECK(static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0U)) == 0);
}

// The body of what begins with a package length (ACPI 6.5 §20.2.4); `terms` goes on behind it.
Span Package(Span* terms) {
  const uint8_t lead = Load<uint8_t>(*terms, 0);
  const size_t extra = lead >> 6U;
  size_t length = extra == 0 ? lead & 0x3fU : lead & 0xfU;
  for (size_t i = 0; i < extra; ++i) {
    length |= size_t{Load<uint8_t>(*terms, 1 + i)} << (4 + 8 * i);
  }
  WV_CHECK(length >= 1 + extra);
  const Span body = Part(*terms, 1 + extra, length - 1 - extra);
  *terms = terms->subspan(length);
  return body;
}

void SkipName(Span* terms) {
  const size_t root = Load<uint8_t>(*terms, 0) == '\\' ? 1 : 0;
  for (const uint8_t c : Part(*terms, root, 4)) {
    WV_CHECK((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_');
  }
  *terms = terms->subspan(root + 4);
}

// A list of resource descriptors ends with the end tag and its checksum, which is 0 or right (§6.4.2.9).
void CheckResources(Span list) {
  while (Load<uint8_t>(list, 0) != 0x79) {
    const uint8_t tag = Load<uint8_t>(list, 0);
    const size_t size =
        (tag & 0x80U) != 0 ? size_t{3} + Load<uint16_t>(list, 1) : size_t{1} + (tag & 7U);
    list = list.subspan(Part(list, 0, size).size());
  }
  WV_CHECK(list.size() == 2);
}

size_t IntegerSize(Span terms) {
  switch (Load<uint8_t>(terms, 0)) {
    case 0x00:
    case 0x01:
      return 1;
    case 0x0a:
      return 2;
    case 0x0b:
      return 3;
    case 0x0c:
      return 5;
    case 0x0e:
      return 9;
    default:
      WV_CHECK(false);
      return 0;
  }
}

void SkipInteger(Span* terms) {
  *terms = terms->subspan(Part(*terms, 0, IntegerSize(*terms)).size());
}

// NOLINTNEXTLINE(misc-no-recursion): a package of integers is as deep as it gets
void SkipData(Span* terms) {
  const uint8_t opcode = Load<uint8_t>(*terms, 0);
  if (opcode == 0x0d) {  // string
    const std::string_view text(reinterpret_cast<const char*>(terms->data()), terms->size());
    const size_t end = text.find('\0');
    WV_CHECK(end != std::string_view::npos);
    *terms = terms->subspan(end + 1);
  } else if (opcode == 0x11) {  // buffer: its size, then that many bytes
    *terms = terms->subspan(1);
    Span body = Package(terms);
    SkipInteger(&body);
    CheckResources(body);
  } else if (opcode == 0x12) {  // package: number of elements
    *terms = terms->subspan(1);
    Span body = Package(terms);
    const uint8_t count = Load<uint8_t>(body, 0);
    body = body.subspan(1);
    for (uint8_t i = 0; i < count; ++i) {
      SkipData(&body);
    }
    WV_CHECK(body.empty());
  } else {
    SkipInteger(terms);
  }
}

// NOLINTNEXTLINE(misc-no-recursion): as deep as devices are in scopes
void CheckTerms(Span terms) {
  while (!terms.empty()) {
    const uint8_t opcode = terms[0];
    terms = terms.subspan(1);
    if (opcode == 0x08) {
      SkipName(&terms);
      SkipData(&terms);
      continue;
    }
    if (opcode == 0x5b) {
      WV_CHECK(Load<uint8_t>(terms, 0) == 0x82);  // device
      terms = terms.subspan(1);
    } else {
      WV_CHECK(opcode == 0x10);  // scope
    }
    Span body = Package(&terms);
    SkipName(&body);
    CheckTerms(body);
  }
}

void CheckMadt(Span madt, size_t cpus) {
  size_t seen = 0;
  Span entries = madt.subspan(44);
  while (!entries.empty()) {
    const uint8_t type = entries[0];
    seen += type == 0 || type == 9 ? 1 : 0;
    const uint8_t length = Load<uint8_t>(entries, 1);
    WV_CHECK(length >= 2);
    entries = entries.subspan(Part(entries, 0, length).size());
  }
  WV_CHECK(seen == cpus);
}

wyvern::acpi::MachineDescription AnyMachine(FuzzedDataProvider& input) {
  wyvern::acpi::MachineDescription machine;
  machine.cpus.resize(input.ConsumeIntegralInRange<size_t>(1, 600));
  for (auto& cpu : machine.cpus) {
    cpu = {.apic_id = input.ConsumeIntegral<uint32_t>(), .enabled = input.ConsumeBool()};
  }
  machine.local_apic = input.ConsumeIntegral<uint32_t>();
  machine.io_apic = input.ConsumeIntegral<uint32_t>();
  machine.pci = {.ecam = input.ConsumeIntegral<uint32_t>(),
                 .buses = input.ConsumeIntegralInRange<uint8_t>(1, 255),
                 .window32_start = input.ConsumeIntegral<uint32_t>(),
                 .window32_size = input.ConsumeIntegral<uint32_t>(),
                 .window64_start = input.ConsumeIntegral<uint64_t>(),
                 .window64_size = input.ConsumeIntegral<uint64_t>()};
  machine.ports = {.power = input.ConsumeIntegral<uint16_t>(),
                   .serial = input.ConsumeIntegral<uint16_t>(),
                   .serial_irq = input.ConsumeIntegralInRange<uint8_t>(0, 15),
                   .pvpanic = input.ConsumeIntegral<uint16_t>()};
  return machine;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  const auto machine = AnyMachine(input);
  const uint64_t address = uint64_t{64} * input.ConsumeIntegralInRange<uint32_t>(0, 1U << 24U);
  const auto block = wyvern::acpi::BuildTables(machine, address);
  WV_CHECK(block.rsdp == address);
  const Span all(block.bytes);
  CheckSum(Part(all, 0, 20));
  CheckSum(Part(all, 0, 36));
  const auto table = [&](uint64_t at, std::string_view signature) {
    WV_CHECK(at >= address && at % 64 == 0);
    const Span found = Part(all, at - address, Load<uint32_t>(all, at - address + 4));
    WV_CHECK(std::memcmp(found.data(), signature.data(), 4) == 0);
    CheckSum(found);
    return found;
  };
  const Span xsdt = table(Load<uint64_t>(all, 24), "XSDT");
  CheckTerms(
      table(Load<uint64_t>(table(Load<uint64_t>(xsdt, 36), "FACP"), 140), "DSDT").subspan(36));
  CheckMadt(table(Load<uint64_t>(xsdt, 44), "APIC"), machine.cpus.size());
  const Span mcfg = table(Load<uint64_t>(xsdt, 52), "MCFG");
  WV_CHECK(mcfg.size() == 60 && Load<uint64_t>(mcfg, 44) == machine.pci.ecam);
  return 0;
}
