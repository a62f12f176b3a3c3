#pragma once

// Marks what libit3 shows to its users; everything else is hidden.
#define IT3_API __attribute__((visibility("default")))
