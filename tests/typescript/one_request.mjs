// One request of the TypeScript SDK, to see where it goes.
import { Daytona } from '@daytona/sdk'

const daytona = new Daytona({ useDeprecatedPolling: true })
await daytona.get('anything').catch((error) => console.log(error.message))
