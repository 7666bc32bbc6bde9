//! Hot loops beside their peers
