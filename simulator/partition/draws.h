// Draws from the Dirichlet distribution that are the same on every machine: uniform numbers come from Philox, and
// logarithms and exponentials are made here of additions, multiplications and divisions, which IEEE 754 rounds in one
// way only, where those of the C library differ in their last bits from machine to machine.
//
// Sources: gamma variates by Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables" (2000), normal ones
// by Marsaglia's polar method. Everything stays in logarithms until the end, so that a concentration of 1e-6 gives one
// share of 1 and others of 0, and not 0/0.
//
// Thread-safety: functions of their arguments; a stream belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/random.h"

namespace heddle::simulator {

// Natural logarithm of x > 0 (normal numbers), and e to the x for x <= 0 (0 below -700). To 1e-14 of the true value.
double PortableLog(double x);
double PortableExp(double x);

// Uniform on (0, 1): 53 random bits, never 0.
double OpenUniform(PhiloxStream& stream);

// Shares that sum to 1 up to rounding. Each of `concentrations` is above 0 (smaller ones than 1e-9 count as 1e-9).
std::vector<double> DrawDirichlet(const std::vector<double>& concentrations, PhiloxStream& stream);

// 0 .. size - 1 in an order of the stream, each equally likely (Fisher and Yates). size below 2^32.
std::vector<int64_t> DrawOrder(int64_t size, PhiloxStream& stream);

// Whole numbers that sum to `total`, as near to total x shares as whole numbers can be (largest remainders first; of
// equal ones the first). `shares` sum to 1.
std::vector<int64_t> Apportion(int64_t total, const std::vector<double>& shares);

}  // namespace heddle::simulator
