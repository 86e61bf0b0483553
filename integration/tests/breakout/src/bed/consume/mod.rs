//! What a compromised process of each role can take of this domain. Prints a line for each cell of the table:
//!
//!     cell ROLE | RESOURCE | bound | measured
//!
//! The bounds are those of `bulkhead_breakout::consumption`; what is measured is seen from outside of the process, where that is possible.
mod alone;
mod figures;
mod held;
mod inside;

use crate::Done;
use bulkhead_breakout::consumption::{Bound, Place, RESOURCES, Resource, bound, bytes};
use bulkhead_plan::kind::of_role;
use bulkhead_policy::{PROFILES, Profile};

/// Runs one of its commands.
pub(crate) fn consume(words: &[String]) -> Done {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["figures"] => {
            println!("{}", figures::now());
            Ok(())
        }
        ["alone", place @ ("dom0" | "stub"), domid, roles @ ..] => {
            alone::alone(*place == "stub", domid.parse()?, roles)
        }
        ["held", launcher, domid, other, resources @ ..] => {
            held::held(launcher.parse()?, domid.parse()?, other.parse()?, resources)
        }
        ["inside", domid, stub, other, log, resources @ ..] => {
            inside::inside(domid.parse()?, stub.parse()?, other.parse()?, log, resources)
        }
        ["take", what, pid] => held::take(what, pid.parse()?),
        _ => Err("consume figures; alone dom0|stub DOMID [ROLE...]; held LAUNCHER DOMID OTHER [RESOURCE...]; inside DOMID STUB OTHER LOG [RESOURCE...]; take WHAT PID"
            .into()),
    }
}

/// The table of what was measured, and what was wrong.
struct Table {
    place: Place,
    wrong: Vec<String>,
}

impl Table {
    fn new(place: Place) -> Self {
        Self { place, wrong: Vec::new() }
    }

    fn bound(&self, profile: &Profile, resource: Resource) -> Result<Bound, Box<dyn std::error::Error>> {
        let kind = of_role(profile.role).ok_or("a profile without a kind")?;
        Ok(bound(profile, kind, resource, self.place))
    }

    /// Prints a cell with an amount, which must be within the bound.
    fn cell(&mut self, profile: &Profile, resource: Resource, amount: u64, how: &str) -> Done {
        let bound = self.bound(profile, resource)?;
        let amount_in_words = match bound {
            Bound::Bytes(_) => bytes(amount),
            _ => amount.to_string(),
        };
        self.say(profile, resource, &format!("{amount_in_words}{how}"), bound.holds(amount))
    }

    /// Prints a cell; it is wrong if it is not `good`.
    fn say(&mut self, profile: &Profile, resource: Resource, measured: &str, good: bool) -> Done {
        let bound = self.bound(profile, resource)?;
        let name = name(resource);
        println!("cell {} | {name} | {bound} | {measured}{}", profile.role, if good { "" } else { " WRONG" });
        if !good {
            self.wrong.push(format!("{}: {name}: bound {bound}, measured {measured}", profile.role));
        }
        Ok(())
    }

    fn end(self) -> Done {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong.join("\n").into()) }
    }
}

fn name(resource: Resource) -> &'static str {
    RESOURCES.iter().find(|(r, _)| *r == resource).map_or("", |(_, name)| name)
}

/// The profiles of these roles, all if none is named; `some`: one of those whose processes are the same but for their system calls.
fn profiles(roles: &[&str]) -> Result<Vec<&'static Profile>, Box<dyn std::error::Error>> {
    if let ["some"] = roles {
        let mut some: Vec<&Profile> = Vec::new();
        for profile in PROFILES {
            let class = |p: &Profile| (p.descriptors, p.limits.data, p.limits.address_space);
            if some.iter().all(|p| class(p) != class(profile)) {
                some.push(profile);
            }
        }
        return Ok(some);
    }
    let found: Vec<&Profile> = PROFILES.iter().filter(|p| roles.is_empty() || roles.contains(&p.role)).collect();
    if !roles.is_empty() && found.len() != roles.len() {
        return Err(format!("no such roles among {roles:?}").into());
    }
    Ok(found)
}
